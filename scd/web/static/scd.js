// The live parts. Everything else of the page works without this.
"use strict";

const FALLBACK = 15000; // ms between looks where no events can be had
const MOST_LOG = 2000000; // characters that a log keeps on the screen

function lost(isLost) {
  const notice = document.getElementById("lost");
  if (notice) notice.hidden = !isLost;
}

// The page as it is now; null if there is no answer, and away from here if it is another page, as the login.
async function fetched() {
  try {
    const answer = await fetch(location.href, { cache: "no-store", credentials: "same-origin" });
    if (answer.redirected) location.reload();
    if (!answer.ok) throw new Error(String(answer.status));
    lost(false);
    return new DOMParser().parseFromString(await answer.text(), "text/html");
  } catch {
    lost(true);
    return null;
  }
}

// What differs is replaced, one marked element at a time: focus, selection and scroll stay where they are.
function take(fresh) {
  for (const old of document.querySelectorAll("[data-live]")) {
    const now = fresh.getElementById(old.id);
    if (now && !old.isEqualNode(now)) old.replaceWith(document.importNode(now, true));
  }
  tick();
}

const begins = new WeakMap(); // of cells that show a running time, by this machine's clock alone

function tick() {
  for (const cell of document.querySelectorAll("[data-seconds]")) {
    if (!begins.has(cell)) begins.set(cell, performance.now() - 1000 * Number(cell.dataset.seconds));
    const seconds = Math.floor((performance.now() - begins.get(cell)) / 1000);
    const two = (number) => String(number).padStart(2, "0");
    cell.textContent = `${two(Math.floor(seconds / 3600))}:${two(Math.floor(seconds / 60) % 60)}:${two(seconds % 60)}`;
  }
}

// Events while somebody looks: a browser has few connections for one server, and many tabs.
function follow(url, handlers) {
  let source = null;
  const open = () => {
    if (source || document.hidden) return;
    source = new EventSource(url());
    source.onopen = () => lost(false);
    source.onerror = () => {
      lost(true);
      if (source.readyState !== EventSource.CLOSED) return; // it comes back by itself
      source = null;
      setTimeout(handlers.refused, FALLBACK);
    };
    for (const [name, handle] of Object.entries(handlers)) {
      if (name !== "refused") source.addEventListener(name, (event) => handle(event, close));
    }
  };
  const close = () => {
    if (source) source.close();
    source = null;
  };
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  addEventListener("pagehide", close);
  open();
}

function followJob(job) {
  const url = new URL(job.dataset.events, location.href);
  let busy = false;
  let again = false;
  const look = async () => {
    if (busy) {
      again = true;
      return;
    }
    busy = true;
    do {
      again = false;
      const fresh = await fetched();
      const now = fresh && fresh.getElementById("job");
      if (now && now.dataset.shape !== job.dataset.shape) location.reload();
      else if (now) take(fresh);
    } while (again);
    busy = false;
  };
  follow(() => url, {
    change: (event) => {
      url.searchParams.set("version", event.lastEventId);
      look();
    },
    end: (_, close) => {
      close();
      look();
    },
    refused: () => location.reload(),
  });
}

function followLog(log) {
  const url = new URL(log.dataset.events, location.href);
  log.scrollTop = log.scrollHeight;
  follow(() => url, {
    text: (event) => {
      const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
      log.append(JSON.parse(event.data));
      while (log.textContent.length > MOST_LOG && log.childNodes.length > 1) log.firstChild.remove();
      url.searchParams.set("offset", event.lastEventId);
      if (atEnd) log.scrollTop = log.scrollHeight;
    },
    end: () => location.replace(location.pathname),
    refused: () => location.reload(),
  });
}

function followList(list) {
  setInterval(async () => {
    if (document.hidden) return;
    const fresh = await fetched();
    const now = fresh && fresh.getElementById("jobs");
    if (!now) return;
    const ids = (table) => [...table.querySelectorAll("[data-live]")].map((row) => row.id).join();
    if (ids(now) === ids(document.getElementById("jobs"))) take(fresh);
    else document.getElementById("jobs").replaceWith(document.importNode(now, true));
  }, 1000 * Number(list.dataset.refresh));
}

setInterval(tick, 1000);
const job = document.querySelector("#job[data-events]");
const log = document.querySelector("#log[data-events]");
const list = document.getElementById("jobs");
if (job) followJob(job);
if (log) followLog(log);
if (list) followList(list);
