// The photo viewer and endless scrolling. Without this, photos are pages and "Older" is a link.
const script = document.getElementById("gallery-script").dataset;
const gallery = document.getElementById("gallery");
const { default: PhotoSwipeLightbox } = await import(script.lightbox);

const lightbox = new PhotoSwipeLightbox({
  gallery: "#gallery",
  children: "a.photo",
  pswpModule: () => import(script.core),
  bgOpacity: 0.94,
  arrowPrevTitle: "Newer photo",
  arrowNextTitle: "Older photo",
  closeTitle: "Close",
  zoomTitle: "Zoom",
});
lightbox.addFilter("domItemData", (item, element, link) => {
  item.src = link.dataset.src;
  item.w = Number(link.dataset.width);
  item.h = Number(link.dataset.height);
  item.msrc = link.querySelector("img").src;
  item.thumbCropped = true;
  item.alt = link.querySelector("img").alt;
  return item;
});
lightbox.on("uiRegister", () => {
  lightbox.pswp.ui.registerElement({
    name: "words",
    order: 9,
    isButton: false,
    appendTo: "root",
    onInit: (element, viewer) => {
      const words = document.createElement("span"), about = document.createElement("a"), download = document.createElement("a");
      words.setAttribute("role", "status");
      about.textContent = "All about it";
      download.textContent = "Download";
      element.append(words, " · ", about, " · ", download);
      viewer.on("change", () => {
        const link = viewer.currSlide.data.element;
        words.textContent = [...link.querySelectorAll(".line")].map((line) => line.textContent.trim()).join(" · ");
        about.href = link.href;
        download.href = `${link.dataset.src}?download=1`;
      });
    },
  });
});
lightbox.on("afterInit", () => {
  lightbox.pswp.element.setAttribute("aria-label", "Photo viewer");
  lightbox.pswp.element.focus();
});
let seen;
lightbox.on("change", () => { seen = lightbox.pswp.currSlide?.data.element; });
lightbox.on("destroy", () => setTimeout(() => seen?.focus()));
lightbox.init();

document.getElementById("filters").addEventListener("change", (event) => event.currentTarget.requestSubmit());

// Follow "Older" when it comes near, and put its days behind those that are there.
async function addOlder(link) {
  link.textContent = "Loading…";
  const answer = await fetch(link.href).catch(() => null);
  if (!answer?.ok || answer.redirected) {
    link.textContent = "Older photos (could not be loaded; try again)";
    return;
  }
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const day of page.querySelectorAll("#gallery > .day")) {
    const last = gallery.lastElementChild;
    if (last?.dataset.day === day.dataset.day) last.querySelector(".photos").append(...day.querySelector(".photos").children);
    else gallery.append(day);
  }
  const next = page.getElementById("older");
  if (!next) {
    link.remove();
    return;
  }
  link.href = next.href;
  link.textContent = "Older photos";
  watcher.unobserve(link);
  watcher.observe(link);
}
const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) addOlder(entry.target);
}, { rootMargin: "600px" });
const older = document.getElementById("older");
if (older) {
  watcher.observe(older);
  older.addEventListener("click", (event) => {
    event.preventDefault();
    addOlder(older);
  });
}
