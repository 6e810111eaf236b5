// Keeps the first screen fresh. Everything on it works without this.
const POLL_MS = 2000, STILL_MS = 5000, PATIENCE_MS = 8000;
const live = document.getElementById("live");
const lost = document.getElementById("lost");
let contactAt = Date.now();

async function get(url, options = {}) {
  const answer = await fetch(url, { ...options, signal: AbortSignal.timeout(options.patience ?? PATIENCE_MS) });
  if (answer.redirected && new URL(answer.url).pathname === "/login" || answer.status === 401) {
    location.assign("/login");
    throw new Error("the session has ended");
  }
  return answer;
}

// Replace what changed, keeping focus and opened details.
function update(html) {
  for (const part of new DOMParser().parseFromString(html, "text/html").querySelectorAll("[data-part]")) {
    const target = document.getElementById(part.dataset.part);
    const opened = [...target?.querySelectorAll("details[open]") ?? []].map((item) => item.id);
    for (const id of opened) part.querySelector(`#${CSS.escape(id)}`)?.setAttribute("open", "");
    if (!target || target.innerHTML === part.innerHTML) continue;
    const focused = target.contains(document.activeElement) ? document.activeElement.id : "";
    target.replaceChildren(...part.childNodes);
    if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
  }
}

function sayContact(ok) {
  if (ok) contactAt = Date.now();
  const seconds = Math.round((Date.now() - contactAt) / 1000);
  const isLost = !ok && seconds > 4;
  live.classList.toggle("stale-state", isLost);
  lost.hidden = !isLost;
  lost.textContent = isLost ? `Lost contact with the box ${seconds} s ago. Trying again…` : "";
}

async function poll(url) {
  if (document.hidden) return;
  try {
    const answer = await get(url);
    if (!answer.ok) throw new Error(answer.statusText);
    update(await answer.text());
    sayContact(true);
  } catch {
    sayContact(false);
  }
}

function every(ms, work) {
  const again = async () => {
    await work();
    setTimeout(again, ms);
  };
  setTimeout(again, ms);
  document.addEventListener("visibilitychange", () => document.hidden || work());
}

function refreshStill(still) {
  const caption = still.closest(".camera").querySelector(".dot");
  let picture = still.querySelector("img");
  if (document.hidden) return;
  if (!caption.classList.contains("ok")) {
    picture?.remove();
    return;
  }
  const next = new Image(320, 180);
  next.alt = picture?.alt ?? "Live picture";
  next.sizes = "(min-width: 48rem) 30vw, 160px";
  next.onload = () => {
    still.querySelectorAll("img").forEach((old) => old.remove());
    still.append(next);
  };
  next.onerror = () => still.querySelectorAll("img").forEach((old) => old.remove());
  const url = still.dataset.still, now = Date.now();
  next.srcset = `${url}?size=thumb&t=${now} 320w, ${url}?t=${now} 1280w`;
}

function say(result, ...content) {
  result.hidden = false;
  result.replaceChildren(...content);
}

async function followUpload(image, words) {
  for (let i = 0; i < 10; i++) {
    await new Promise((done) => setTimeout(done, 800));
    const answer = await get(`/api/images?camera=${image.camera}&per_page=20`).catch(() => null);
    const found = answer?.ok && (await answer.json()).images.find((one) => one.filename === image.filename);
    if (found && found.state !== "pending") {
      words.textContent = words.textContent.replace("waiting for upload", found.state);
      return;
    }
  }
}

async function takePhoto(event) {
  event.preventDefault();
  const form = event.target, button = form.querySelector("button");
  const result = document.getElementById(`result-${form.dataset.name}`), words = button.textContent;
  button.disabled = true;
  button.textContent = "Taking a photo…";
  say(result, "Taking a photo…");
  try {
    const answer = await get(form.dataset.capture, {
      method: "POST", patience: 60000,
      headers: { "X-CSRF-Token": document.querySelector("meta[name=csrf-token]").content },
    });
    const body = await answer.json();
    if (!answer.ok) {
      say(result, `No photo: ${body.error}. ${body.hint ?? ""}`);
      return;
    }
    const link = document.createElement("a"), picture = new Image(320, 180), text = document.createElement("span");
    link.href = `/photos/${body.image.filename}`;
    picture.src = body.image.thumbnail_url;
    picture.alt = "The photo just taken";
    link.append(picture);
    const time = new Date(body.image.captured_at).toLocaleTimeString([], { hour12: false });
    const state = { pending: "waiting for upload", skipped: "not to be uploaded" }[body.image.state] ?? body.image.state;
    text.textContent = `Taken ${time}, ${Math.round(body.latency_ms)} ms, saved, ${state}`;
    say(result, link, text);
    poll(live.dataset.state);
    followUpload(body.image, text);
  } catch {
    say(result, "No answer from the box. Is it still connected?");
  } finally {
    button.disabled = false;
    button.textContent = words;
  }
}

for (const form of document.querySelectorAll("form[data-capture]")) form.addEventListener("submit", takePhoto);
every(POLL_MS, () => poll(live.dataset.state));
every(live.dataset.statsS * 1000, () => poll(live.dataset.stats));
every(STILL_MS, () => document.querySelectorAll("[data-still]").forEach(refreshStill));
