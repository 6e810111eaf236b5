#!/bin/sh
# Install what the tests need beyond Python, from Debian: real RTSP servers, ffmpeg, a browser, and
# what makes file systems and lets them fail.
# Without the right to do so, say what can't be tested; in CI that is a failure.
set -u
packages="python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-base gstreamer1.0-plugins-good
gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly ffmpeg chromium systemd
gcc libc6-dev xfsprogs e2fsprogs mount vlc-bin vlc-plugin-base"

missing=""
for package in $packages; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' \
        || missing="$missing $package"
done
[ -z "$missing" ] && exit 0

if [ "$(id -u)" = 0 ]; then
    as_root=""
elif sudo -n true 2>/dev/null; then
    as_root="sudo -n"
else
    as_root="no"
fi
if [ "$as_root" != "no" ] && command -v apt-get >/dev/null; then
    echo "Installing for the tests:$missing"
    # shellcheck disable=SC2086
    $as_root apt-get update -qq && DEBIAN_FRONTEND=noninteractive $as_root \
        apt-get install -y -qq --no-install-recommends $missing >/dev/null && exit 0
fi
echo "NOT TESTED: everything that needs a real RTSP server, a browser or a failing disk, since these are missing:$missing"
echo "Install them with: sudo apt-get install$missing"
[ -z "${CI:-}" ]
