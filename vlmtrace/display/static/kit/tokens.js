// Tokens in a row, to hover and to click; one tab stop, arrow keys go along. options: tokens [{text, role}], chosen(i),
// share(i) or null (drawn as a bar in the token), hover(i or null), pick(i, event)
function tokenStrip(root, parent, options) {
  const strip = make("div", "vt-tokens", parent);
  strip.setAttribute("role", "group");
  strip.setAttribute("aria-label", options.label);
  const buttons = options.tokens.map((token, i) => {
    const button = make("button", "vt-token", strip);
    button.type = "button";
    button.tabIndex = i ? -1 : 0;
    button.title = token.title;
    if (token.gap) button.classList.add("vt-gap");
    make("span", "vt-bar", button);
    make("span", "vt-text", button, token.text);
    make("span", "vt-role", button, token.role);
    button.addEventListener("pointerenter", (event) => timed(root, event, () => options.hover(i)));
    button.addEventListener("pointerleave", () => options.hover(null));
    button.addEventListener("focus", () => { if (button.matches(":focus-visible")) options.hover(i); });
    button.addEventListener("blur", () => options.hover(null));
    button.addEventListener("click", (event) => options.pick(i, event));
    return button;
  });
  strip.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key], now = buttons.indexOf(document.activeElement);
    if (!step || now < 0) return;
    event.preventDefault();
    const next = buttons[Math.min(Math.max(now + step, 0), buttons.length - 1)];
    buttons.forEach((button) => { button.tabIndex = -1; });
    next.tabIndex = 0;
    next.focus();
  });
  function draw() {
    buttons.forEach((button, i) => {
      button.setAttribute("aria-pressed", options.chosen(i));
      const share = options.share(i);
      button.firstChild.style.height = share === null ? "0" : `${(100 * share).toFixed(1)}%`;
    });
  }
  return { draw, strip };
}
