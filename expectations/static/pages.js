// What the buttons of Great Expectations' pages call, without jQuery: hide what passed, and unfold what is folded.
const PASSED = ".hide-succeeded-validation-target-child, .hide-succeeded-validation-target, .hide-succeeded-validations-column-section-target-child";

function shown(visible) {
  for (const found of document.querySelectorAll(PASSED)) {
    const section = found.matches(".hide-succeeded-validations-column-section-target-child");
    const block = section ? found.parentElement.parentElement : found.matches(".hide-succeeded-validation-target") ? found : found.parentElement;
    block.style.display = visible ? "" : "none";
    if (section && block.id) {
      for (const link of document.querySelectorAll(`a[href="#${block.id}"]`)) link.style.display = block.style.display;
    }
  }
}

function showAllValidations() { shown(true); }
function hideSucceededValidations() { shown(false); }

document.addEventListener("click", (event) => {
  const button = event.target.closest(".btn-group-toggle .btn, [data-toggle=collapse]");
  if (!button) return;
  if (button.matches("[data-toggle=collapse]")) {
    event.preventDefault();
    document.querySelector(button.dataset.target || button.getAttribute("href"))?.classList.toggle("show");
    return;
  }
  for (const other of button.parentElement.children) other.classList.toggle("active", other === button);
});
