// Says when the page is not live, and comes again when nothing was heard. Everything else is plain HTML.
(() => {
  const LOST = 10000;
  const AGAIN = 5000;
  let heard = Date.now();
  let asked = heard;
  let reader = null;
  const place = document.getElementById("not-live");
  const source = document.querySelector("[hx-sse\\:connect]");
  if (!source) return;
  const alive = () => {
    heard = Date.now();
    if (place.dataset.lost) {
      delete place.dataset.lost;
      place.replaceChildren();
    }
  };
  document.addEventListener("htmx:sse:before:message", (event) => {
    reader = event.detail.connection;
    if (event.detail.message.event === "alive") alive();
  });
  document.addEventListener("visibilitychange", () => {
    heard = Date.now();
  });
  // The extension comes again after a stream, but not where the first one never began, nor where it was loaded too late.
  const begin = () => {
    if ((source._htmx && source._htmx.sse) || Date.now() - asked < AGAIN) return;
    asked = Date.now();
    htmx.ajax("GET", source.getAttribute("hx-sse:connect"), { source });
  };
  setInterval(() => {
    begin();
    if (document.hidden || Date.now() - heard < LOST) return;
    if (!place.dataset.lost) {
      place.dataset.lost = "yes";
      const text = document.createElement("p");
      text.setAttribute("role", "status");
      text.textContent = `Not live since ${new Date(heard).toTimeString().slice(0, 5)}. Reload to see what is now.`;
      place.replaceChildren(text);
    }
    if (Date.now() - heard > 3 * LOST && reader && reader.reader) reader.reader.cancel();
  }, 1000);
})();
