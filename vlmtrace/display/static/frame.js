// The line above a view: what it shows, what it computes and for how long, what went wrong, and the exports.
function render({ model, el }) {
  begin(el);
  const line = make("div", "vt-frame", el);
  const about = make("span", "vt-about", line), status = make("span", "vt-status", line);
  status.setAttribute("role", "status");
  const exports = make("span", "vt-exports", line);
  make("span", "vt-label", exports, "export:");
  const names = { png: "the picture", csv: "the numbers as CSV", parquet: "the numbers as parquet", code: "the code that gives the numbers" };
  for (const [kind, title] of Object.entries(names)) button(exports, kind, () => model.send({ export: kind }), title);
  const error = make("p", "vt-error", el);
  error.setAttribute("role", "alert");
  const code = make("div", "vt-code", el), text = make("pre", "", code);
  text.tabIndex = 0;
  const bar = make("div", "", code);
  button(bar, "copy", () => navigator.clipboard.writeText(model.get("code")).catch(() => getSelection().selectAllChildren(text)));
  button(bar, "close", () => save(model, { code: "" }));
  let since = 0, timer = 0;

  function paint() {
    el.dataset.view = model.get("view");
    el.dataset.error = model.get("error");
    const doing = model.get("doing");
    el.dataset.busy = String(Boolean(doing));
    about.textContent = model.get("about");
    error.textContent = model.get("error"); error.hidden = !model.get("error");
    text.textContent = model.get("code"); code.hidden = !model.get("code");
    clearInterval(timer);
    if (doing) {
      since = performance.now();
      const tell = () => { status.textContent = `computing ${doing} … ${((performance.now() - since) / 1000).toFixed(0)} s`; };
      timer = setInterval(tell, 500);
      tell();
    } else status.textContent = model.get("done");
  }

  function receive(message, buffers) {
    if (!message.file) return;
    const url = URL.createObjectURL(new Blob([buffers[0]])), link = make("a", "", el);
    link.href = url; link.download = message.file; link.click(); link.remove();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  }
  model.on("msg:custom", receive);
  const stop = follow(model, ["view", "about", "doing", "done", "error", "code"], paint);
  paint();
  return () => { stop(); model.off("msg:custom", receive); clearInterval(timer); };
}
export default { render };
