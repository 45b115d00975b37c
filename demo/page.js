// The player over the page: one <dialog>, filled when a result is clicked. Escape and a click outside of it
// close it.
"use strict";
(() => {
  const clock = (seconds) => {
    const whole = Math.max(0, Math.floor(seconds));
    const rest = String(whole % 60).padStart(2, "0");
    const minutes = Math.floor(whole / 60);
    if (minutes < 60) return `${minutes}:${rest}`;
    return `${Math.floor(minutes / 60)}:${String(minutes % 60).padStart(2, "0")}:${rest}`;
  };

  const make = (kind, className, text) => {
    const element = document.createElement(kind);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  };

  let dialog = null;

  const build = () => {
    dialog = make("dialog", "player");
    dialog.setAttribute("aria-label", "player");
    const top = make("div", "bar");
    dialog.name = make("div", "name");
    const close = make("button", "close", "\u00d7");
    close.type = "button";
    close.setAttribute("aria-label", "close the player");
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
      const link = make("a", "", "Download the file");
      link.href = address;
      link.download = "";
      dialog.notice.append("This browser cannot play the format of this video. ", link, " and play it elsewhere.");
    } else if (status === 0) {
      dialog.notice.append("The server does not answer. Is the program still running?");
    } else if (status === 429 || status === 503) {
      dialog.notice.append("The server is busy. Try again in a moment.");
    } else {
      dialog.notice.append("The file of this video is missing now.");
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
      dialog.moments.append(make("span", "", "Moments that fit, best first:"));
      for (const moment of moments) {
        const button = make("button", "", clock(moment));
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
