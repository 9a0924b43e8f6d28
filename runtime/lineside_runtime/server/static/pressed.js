// Whether a finger or a mouse key is down. What it is on is not replaced meanwhile, or the touch would end on another element.

const PRESS_MS = 5000; // a press whose end is never heard, such as that of a finger that left the window, holds nothing for longer
let pressedAt = 0;

const isPressed = () => Date.now() - pressedAt < PRESS_MS;

function watchPresses(released = () => {}) {
  document.addEventListener("pointerdown", () => { pressedAt = Date.now(); }, true);
  for (const end of ["pointerup", "pointercancel"]) {
    document.addEventListener(end, () => setTimeout(() => { pressedAt = 0; released(); }), true);
  }
}

export { isPressed, watchPresses };
