// What scrolls has to be reached by the Tab key. The theme sees to that for what a page shows when
// it is loaded or its window changes; what was folded then is looked at when it is opened.
(() => {
  let asked = false;
  const look = () => {
    asked = false;
    for (const e of document.querySelectorAll("main :is(pre, .cell_output > .output)")) {
      const scrolls = e.scrollWidth > e.clientWidth || e.scrollHeight > e.clientHeight;
      e.tabIndex = scrolls ? 0 : -1;
    }
  };
  const soon = () => {
    if (!asked) requestAnimationFrame(look);
    asked = true;
  };
  document.addEventListener("toggle", soon, true);
  document.addEventListener("click", soon);
})();
