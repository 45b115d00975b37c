"use strict";

// The player over the page: one <dialog>, filled when a result is clicked. Escape and a click outside of it
// close it.
(() => {
  const make = (kind, className, text) => {
    const element = document.createElement(kind);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  };

  let dialog = null;

  const build = () => {
    dialog = make("dialog", "player");
    dialog.setAttribute("aria-label", WORDS.player);
    const top = make("div", "bar");
    dialog.name = make("div", "name");
    const close = make("button", "close", "\u00d7");
    close.type = "button";
    close.setAttribute("aria-label", WORDS.close);
    close.addEventListener("click", () => dialog.close());
    top.append(dialog.name, close);
    dialog.screen = make("div", "screen");
    dialog.notice = make("p", "notice");
    dialog.notice.setAttribute("role", "alert");
    dialog.moments = make("div", "moments");
    dialog.append(top, dialog.screen, dialog.notice, dialog.moments);
    dialog.addEventListener("close", () => dialog.screen.replaceChildren()); // stops it, and its loading
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog) dialog.close();
    });
    document.body.append(dialog);
  };

  const explain = async (address) => {
    dialog.notice.replaceChildren();
    let status = 0;
    try {
      status = (await fetch(address, { headers: { Range: "bytes=0-0" } })).status;
    } catch {
      // no server: status stays 0
    }
    if (status === 200 || status === 206) {
      const link = make("a", "", WORDS.download);
      link.href = address;
      link.download = "";
      dialog.notice.append(`${WORDS.cannot_play} `, link);
    } else if (status === 0) {
      dialog.notice.append(WORDS.no_answer);
    } else if (status === 429 || status === 503) {
      dialog.notice.append(WORDS.busy);
    } else {
      dialog.notice.append(WORDS.missing_now);
    }
  };

  const show = (shot) => {
    if (!dialog) build();
    const { play: address, name } = shot.dataset;
    const second = Number(shot.dataset.second) || 0;
    const moments = JSON.parse(shot.dataset.moments || "[]");
    const video = make("video");
    video.controls = video.autoplay = video.playsInline = true;
    video.setAttribute("aria-label", name);
    let started = false;
    video.addEventListener("loadedmetadata", () => {
      // Some browsers ignore #t= or its fractions of seconds.
      if (!started && Math.abs(video.currentTime - second) > 0.05) video.currentTime = second;
      started = true;
    });
    video.addEventListener("error", () => explain(address));
    video.src = `${address}#t=${second}`;
    dialog.name.textContent = name;
    dialog.notice.replaceChildren();
    dialog.moments.replaceChildren();
    if (moments.length > 1) {
      dialog.moments.append(make("span", "", WORDS.moments));
      for (const [moment, label] of moments) {
        const button = make("button", "", label);
        button.type = "button";
        button.addEventListener("click", () => {
          video.currentTime = moment;
          video.play();
        });
        dialog.moments.append(button);
      }
    }
    dialog.screen.replaceChildren(video);
    dialog.showModal();
    video.focus(); // so that the space bar pauses
  };

  document.addEventListener("click", (event) => {
    const shot = event.target.closest?.("[data-play]");
    if (shot) show(shot);
  });
  // Error events of pictures do not bubble, but a capturing listener receives them.
  document.addEventListener(
    "error",
    (event) => {
      if (event.target.matches?.(".shot img")) event.target.classList.add("none");
    },
    true,
  );
})();

// The search: its state is in the address (a file's in the history entry, because ids of uploads are for this
// visitor only), so that reload, Back and links show the same results. gradio's events call these functions.
const page = (() => {
  const KEYS = { q: "", not: "", like: "", top: DEFAULTS.top, weight: DEFAULTS.weight, frames: DEFAULTS.frames };
  const NUMBERS = ["top", "weight", "frames"];
  let file = null; // {id, name} of the upload that takes part in a search
  let like = ""; // id of the video whose "similar" was clicked
  let shown = null; // the state that the results belong to
  const find = (selector) => document.querySelector(selector);

  const read = () => {
    const parameters = new URLSearchParams(location.search);
    const state = { ...KEYS, file: history.state?.file || null };
    for (const key of Object.keys(KEYS)) {
      if (!parameters.has(key)) continue;
      const text = parameters.get(key);
      if (!NUMBERS.includes(key)) state[key] = text;
      else if (text.trim() && Number.isFinite(Number(text))) state[key] = Number(text);
    }
    return state;
  };

  const write = (state) => {
    const address = new URL(location.href);
    for (const [key, usual] of Object.entries(KEYS)) {
      if (state[key] === usual || state[key] === null) address.searchParams.delete(key);
      else address.searchParams.set(key, state[key]);
    }
    const entry = { ...history.state, file: state.file };
    const isSame = address.href === location.href && history.state?.file?.id === state.file?.id;
    history[isSame ? "replaceState" : "pushState"](entry, "", address);
  };

  const isAsked = (state) => Boolean(state.q.trim() || state.like || state.file || state.not.trim());

  const show = (state) => {
    shown = state;
    const title = state.like || [state.q.trim(), state.file?.name].filter(Boolean).join(" + ");
    document.title = title ? `${title.slice(0, 80)} - ${WORDS.title}` : WORDS.title;
    mark(false);
    return [state.q, state.not, state.file?.id || "", state.like, state.top, state.weight, state.frames];
  };

  const mark = (isStale) => document.body.classList.toggle("stale-results", isStale);

  const choose = (chosen) => {
    file = chosen;
    const box = find(".file .chosen");
    if (!box) return;
    box.hidden = !chosen;
    box.querySelector(".name").textContent = chosen?.name || "";
    if (!chosen) find("#file").value = "";
  };

  const upload = async (picked) => {
    const area = find(".file");
    choose({ id: "", name: WORDS.uploading.replace("{name}", picked.name) });
    area.setAttribute("aria-busy", "true");
    let reason = "";
    try {
      const answer = await fetch(`/uploads?name=${encodeURIComponent(picked.name)}`, {
        method: "POST",
        headers: { "Content-Type": "application/octet-stream" },
        body: picked,
      });
      const content = await answer.json();
      if (answer.ok) choose({ id: content.id, name: picked.name });
      else reason = content.error;
    } catch {
      reason = WORDS.no_answer; // also if the server closed the connection, because the file is too large
    }
    area.removeAttribute("aria-busy");
    const told = area.parentElement.querySelector(".error");
    told?.remove();
    if (reason) {
      choose(null);
      const error = document.createElement("p");
      error.className = "error";
      error.setAttribute("role", "alert");
      error.textContent = WORDS.upload_failed.replace("{reason}", reason);
      area.after(error);
    } else find("#go").click();
  };

  document.addEventListener("change", (event) => {
    if (event.target.id === "file" && event.target.files.length) upload(event.target.files[0]);
  });
  document.addEventListener("click", (event) => {
    if (!event.target.closest?.(".file .remove")) return;
    choose(null);
    find("#file").focus();
    if (shown?.file) mark(true);
  });
  for (const kind of ["dragover", "drop"]) {
    document.addEventListener(kind, (event) => {
      if (![...(event.dataTransfer?.types || [])].includes("Files")) return;
      event.preventDefault();
      if (kind === "drop" && event.dataTransfer.files.length) upload(event.dataTransfer.files[0]);
    });
  }
  addEventListener("popstate", () => find("#restore")?.click());

  return {
    // When the page is ready: show what the address says.
    start: () => {
      const live = document.createElement("div");
      live.id = "told";
      live.setAttribute("role", "status");
      document.body.append(live);
      if (isAsked(read())) find("#restore").click();
    },
    // The values of the boxes and settings that the address says.
    restored: () => {
      const state = read();
      choose(state.file);
      return [state.q, state.not, state.top, state.weight, state.frames];
    },
    // The arguments of the search that the address says.
    search_again: () => show(read()),
    // The arguments of a search by the values of the page.
    search: (q, not, _file, _like, top, weight, frames) => {
      const state = { q, not, file: file?.id ? file : null, like: "", top, weight, frames };
      write(state);
      return show(state);
    },
    // The arguments of a search for videos like the one that was clicked.
    search_like: (_q, _not, _file, _like, top, weight, frames) => {
      const state = { ...KEYS, file: null, like, top, weight, frames };
      write(state);
      return show(state);
    },
    like: (id) => {
      like = id;
    },
    // A click on an example: its words alone.
    example: (words) => {
      choose(null);
      return [words, ""];
    },
    // Some value was changed: results of other values are marked.
    changed: (q, not, top, weight, frames) => {
      if (!shown || !isAsked(shown)) return;
      const same = shown.top === top && shown.weight === weight && shown.frames === frames;
      const text = shown.like ? true : shown.q === q && shown.not === not;
      mark(!(same && text && (file?.id || "") === (shown.file?.id || "")));
    },
    // Tell the new results to screen readers.
    tell: () => {
      const parts = [...document.querySelectorAll("#results .heading h2, #results .count, #results .hint")];
      find("#told").textContent = parts.map((part) => part.textContent).join(", ");
    },
  };
})();
