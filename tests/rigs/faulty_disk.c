/* Let system calls on files below a folder fail, as counted by a rig: see faulty_disk.py.
 *
 * Loaded with LD_PRELOAD, so that SQLite's calls are reached too. The table is shared memory.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

enum { WRITE, SYNC, RENAME, UNLINK, TRUNCATE, CREATE, COMMIT, KINDS };

struct row {
    int64_t calls;    /* counted so far */
    int64_t first;    /* this one fails, ... */
    int64_t every;    /* ... and every so many after it; 0: only that one */
    int64_t failed;   /* how many did */
    int64_t delay_us; /* each call takes that much longer */
};
struct table {
    int64_t error; /* errno; 0: nothing fails */
    int64_t is_short; /* a failing write first writes its half */
    struct row rows[KINDS];
};

static struct table *table;
static const char *folder;
static size_t folder_length;
static __thread int fails_next; /* what is left of a short write fails */

__attribute__((constructor)) static void set_up(void) {
    const char *path = getenv("FAULTY_DISK_TABLE");
    folder = getenv("FAULTY_DISK_FOLDER");
    if (!path || !folder) return;
    folder_length = strlen(folder);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) abort();
    void *memory = mmap(NULL, sizeof *table, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED) abort();
    close(fd);
    table = memory;
}

static int is_ours(const char *path) {
    return path && !strncmp(path, folder, folder_length) && path[folder_length] == '/';
}

static int counts(int kind) {
    struct row *row = &table->rows[kind];
    if (row->delay_us) {
        struct timespec pause = {row->delay_us / 1000000, row->delay_us % 1000000 * 1000};
        nanosleep(&pause, NULL);
    }
    int64_t call = __atomic_add_fetch(&row->calls, 1, __ATOMIC_SEQ_CST);
    if (!table->error || !row->first || call < row->first) return 0;
    if (call > row->first && (!row->every || (call - row->first) % row->every)) return 0;
    __atomic_add_fetch(&row->failed, 1, __ATOMIC_SEQ_CST);
    return 1;
}

/* Return whether a call of a kind on a path is to fail. */
static int fails(int kind, const char *path) {
    int failing = counts(kind);
    size_t length = strlen(path);
    if ((kind == WRITE || kind == SYNC) && length > 4 && !strcmp(path + length - 4, "-wal"))
        failing |= counts(COMMIT);
    if (failing) errno = (int)table->error;
    return failing;
}

static int fails_path(int kind, int at, const char *path) {
    char link[64], whole[PATH_MAX * 2];
    if (!table) return 0;
    if (path && path[0] == '/') return is_ours(path) && fails(kind, path);
    if (at == AT_FDCWD)
        snprintf(link, sizeof link, "/proc/self/cwd");
    else
        snprintf(link, sizeof link, "/proc/self/fd/%d", at);
    ssize_t length = readlink(link, whole, PATH_MAX - 1);
    if (length < 0 || !path) return 0;
    snprintf(whole + length, PATH_MAX, "/%s", path);
    return is_ours(whole) && fails(kind, whole);
}

static int fails_fd(int kind, int fd) {
    char link[64], path[PATH_MAX];
    int kept = errno;
    if (!table) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    errno = kept;
    if (length < 0) return 0;
    path[length] = 0;
    return is_ours(path) && fails(kind, path);
}

#define REAL(name, type) static type real; \
    if (!real) real = (type)dlsym(RTLD_NEXT, name)

/* Return how many bytes a write may have; -1: it fails. */
static ssize_t allowed(int fd, size_t size) {
    if (fails_next && table) {
        fails_next = 0;
        errno = (int)table->error;
        return -1;
    }
    if (!fails_fd(WRITE, fd)) return (ssize_t)size;
    if (!table->is_short || size < 2) return -1;
    fails_next = 1;
    return (ssize_t)(size / 2);
}

typedef ssize_t (*write_call)(int, const void *, size_t);
ssize_t write(int fd, const void *bytes, size_t size) {
    REAL("write", write_call);
    ssize_t fits = allowed(fd, size);
    return fits < 0 ? -1 : real(fd, bytes, (size_t)fits);
}

typedef ssize_t (*pwrite_call)(int, const void *, size_t, off64_t);
ssize_t pwrite64(int fd, const void *bytes, size_t size, off64_t at) {
    REAL("pwrite64", pwrite_call);
    ssize_t fits = allowed(fd, size);
    return fits < 0 ? -1 : real(fd, bytes, (size_t)fits, at);
}
ssize_t pwrite(int fd, const void *bytes, size_t size, off_t at) {
    return pwrite64(fd, bytes, size, at);
}

typedef int (*fd_call)(int);
int fsync(int fd) {
    REAL("fsync", fd_call);
    return fails_fd(SYNC, fd) ? -1 : real(fd);
}
int fdatasync(int fd) {
    REAL("fdatasync", fd_call);
    return fails_fd(SYNC, fd) ? -1 : real(fd);
}

typedef int (*truncate_call)(int, off64_t);
int ftruncate64(int fd, off64_t size) {
    REAL("ftruncate64", truncate_call);
    return fails_fd(TRUNCATE, fd) ? -1 : real(fd, size);
}
int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

typedef int (*rename_call)(const char *, const char *);
int rename(const char *from, const char *to) {
    REAL("rename", rename_call);
    return fails_path(RENAME, AT_FDCWD, from) ? -1 : real(from, to);
}
typedef int (*renameat_call)(int, const char *, int, const char *);
int renameat(int from_at, const char *from, int to_at, const char *to) {
    REAL("renameat", renameat_call);
    return fails_path(RENAME, from_at, from) ? -1 : real(from_at, from, to_at, to);
}

typedef int (*unlink_call)(const char *);
int unlink(const char *path) {
    REAL("unlink", unlink_call);
    return fails_path(UNLINK, AT_FDCWD, path) ? -1 : real(path);
}
typedef int (*unlinkat_call)(int, const char *, int);
int unlinkat(int at, const char *path, int flags) {
    REAL("unlinkat", unlinkat_call);
    return fails_path(UNLINK, at, path) ? -1 : real(at, path, flags);
}

typedef int (*open_call)(const char *, int, mode_t);
int open64(const char *path, int flags, ...) {
    REAL("open64", open_call);
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    if (flags & O_CREAT && fails_path(CREATE, AT_FDCWD, path)) return -1;
    return real(path, flags, mode);
}
int open(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    return open64(path, flags, mode);
}
