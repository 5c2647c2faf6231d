// Before the first paint, so that a dark room stays dark.
(() => {
  const kept = localStorage.getItem("console.theme");
  if (kept === "light" || kept === "dark") document.documentElement.dataset.theme = kept;
})();
