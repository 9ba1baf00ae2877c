// The drawing area: strokes of a mouse, a pen, a finger or the arrow keys, light on dark as in MNIST. The drawing is sent
// cut to its ink. If the gallery's encoder knows digits, the service then scales the ink to 20 pixels and centres it by
// mass, as MNIST's digits were made.

import { find } from "./elements";

// Width of a stroke on the canvas of 280 × 280. On MNIST's scale, it is about 2 of 28 pixels.
const WIDTH = 21;
const INK = "#fff";
const GROUND = "#000";
// Ground around the ink in what is sent, as a share of the ink's longer side. With more, the service would take small
// digits to be in MNIST's form already, and leave them as they are.
const MARGIN = 0.05;
// Distance that an arrow key moves the pen.
const STEP = 14;

interface Point {
  x: number;
  y: number;
}

export class Drawing {
  private readonly pad = find("pad");
  private readonly pen = find("pen");
  private readonly canvas = find<HTMLCanvasElement>("canvas");
  private readonly context = this.canvas.getContext("2d")!;
  private last: Point | null = null;
  private cursor: Point = { x: this.canvas.width / 2, y: this.canvas.height / 2 };
  private isDown = false;
  private ink = { left: 0, top: 0, right: 0, bottom: 0 }; // bounds of the strokes' centre lines

  /** `changed` is called after each piece of a stroke; `isEnd` tells whether the stroke has ended. */
  constructor(private readonly changed: (isEnd: boolean) => void) {
    this.clear();
    this.pad.addEventListener("pointerdown", (event) => this.begin(event));
    this.pad.addEventListener("pointermove", (event) => this.move(event));
    for (const end of ["pointerup", "pointercancel"] as const) {
      this.pad.addEventListener(end, () => this.end());
    }
    this.pad.addEventListener("keydown", (event) => this.press(event));
    this.pad.addEventListener("blur", () => this.lift());
  }

  clear(): void {
    this.context.fillStyle = GROUND;
    this.context.fillRect(0, 0, this.canvas.width, this.canvas.height);
    this.ink = { left: Infinity, top: Infinity, right: -Infinity, bottom: -Infinity };
    this.pad.classList.remove("inked");
  }

  /** Return the ink on a square ground, as a PNG in base64. */
  png(): string {
    const { left, top, right, bottom } = this.ink;
    const side = (Math.max(right - left, bottom - top) + WIDTH) * (1 + 2 * MARGIN);
    const square = document.createElement("canvas");
    square.width = square.height = Math.round(side);
    const context = square.getContext("2d")!;
    context.fillStyle = GROUND;
    context.fillRect(0, 0, side, side);
    context.drawImage(this.canvas, (side - left - right) / 2, (side - top - bottom) / 2);
    return square.toDataURL("image/png").split(",")[1]!;
  }

  private begin(event: PointerEvent): void {
    if (event.button !== 0) return;
    this.pad.setPointerCapture(event.pointerId);
    this.last = this.place(event);
    this.line(this.last, this.last);
    this.changed(false);
  }

  private move(event: PointerEvent): void {
    if (!this.last) return;
    for (const part of event.getCoalescedEvents?.() ?? [event]) {
      const next = this.place(part);
      this.line(this.last, next);
      this.last = next;
    }
    this.changed(false);
  }

  private end(): void {
    if (!this.last) return;
    this.last = null;
    this.changed(true);
  }

  private place(event: PointerEvent): Point {
    const box = this.canvas.getBoundingClientRect();
    const scale = this.canvas.width / box.width;
    return { x: (event.clientX - box.left) * scale, y: (event.clientY - box.top) * scale };
  }

  private line(from: Point, to: Point): void {
    const { context } = this;
    context.strokeStyle = INK;
    context.lineWidth = WIDTH;
    context.lineCap = context.lineJoin = "round";
    context.beginPath();
    context.moveTo(from.x, from.y);
    context.lineTo(to.x, to.y);
    context.stroke();
    for (const { x, y } of [from, to]) {
      const { left, top, right, bottom } = this.ink;
      this.ink = {
        left: Math.min(left, x),
        top: Math.min(top, y),
        right: Math.max(right, x),
        bottom: Math.max(bottom, y),
      };
    }
    this.pad.classList.add("inked");
  }

  private press(event: KeyboardEvent): void {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (step) {
      const [right = 0, down = 0] = step;
      const within = (value: number) => Math.min(Math.max(value, WIDTH), this.canvas.width - WIDTH);
      const next = { x: within(this.cursor.x + right * STEP), y: within(this.cursor.y + down * STEP) };
      if (this.isDown) {
        this.line(this.cursor, next);
        this.changed(false);
      }
      this.cursor = next;
    } else if (event.key === " ") {
      this.isDown = !this.isDown;
      if (this.isDown) this.line(this.cursor, this.cursor);
      this.changed(!this.isDown);
    } else if (event.key === "Escape") {
      find("clear").click();
      this.isDown = false;
    } else {
      return;
    }
    event.preventDefault();
    this.showPen();
  }

  private lift(): void {
    this.pen.hidden = true;
    if (this.isDown) this.changed(true);
    this.isDown = false;
  }

  private showPen(): void {
    this.pen.hidden = false;
    this.pen.classList.toggle("down", this.isDown);
    this.pen.style.left = `${(this.cursor.x / this.canvas.width) * 100}%`;
    this.pen.style.top = `${(this.cursor.y / this.canvas.height) * 100}%`;
  }
}
