// What is too wide can be scrolled from the keyboard as well.
const seen = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    if (target.scrollWidth > target.clientWidth) target.tabIndex = 0;
    else target.removeAttribute("tabindex");
  }
});
addEventListener("DOMContentLoaded", () => {
  const wide = document.querySelectorAll("pre, .table-wrapper, .formula");
  for (const each of wide) seen.observe(each);
});
