// The values of the controls, to and from the JSON text that gradio has of them.
const controls = () => element.querySelectorAll("[data-name]");
const show = (control) => {
  const told = control.parentElement.querySelector("output");
  if (told) told.textContent = Number(control.value).toFixed(2);
  control.classList.toggle("changed", control.value !== control.dataset.usual);
  if (control.dataset.name !== "estimator") return;
  for (const slider of element.querySelectorAll("[data-of]"))
    slider.hidden = !slider.dataset.of.split(" ").includes(control.value);
};
const write = () => {
  const values = JSON.parse(props.value || "{}");
  for (const control of controls()) {
    control.value = values[control.dataset.name] ?? control.dataset.usual;
    show(control);
  }
  element.querySelector(".goal").hidden = !("share" in values);
};
const send = () => {
  const values = {};
  for (const control of controls()) {
    const goal = control.dataset.name === "share" && !control.closest(".goal").hidden;
    if (goal || control.value !== control.dataset.usual || control.tagName === "SELECT")
      values[control.dataset.name] = control.value;
  }
  props.value = JSON.stringify(values);
  trigger("input");
};
element.addEventListener("input", (event) => {
  if (!event.target.dataset.name) return;
  show(event.target);
  send();
});
// Twice on a name sets its slider back.
element.addEventListener("dblclick", (event) => {
  const control = event.target.closest(".slider")?.querySelector("input");
  if (!control || event.target === control) return;
  control.value = control.dataset.usual;
  show(control);
  send();
});
watch("value", write);
write();
