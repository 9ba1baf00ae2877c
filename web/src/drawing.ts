// The drawing area: strokes of a mouse, a pen, a finger or the arrow keys, light on dark as in MNIST. The service brings
// the drawing to MNIST's size and place, if the gallery's encoder knows digits.

import { find } from "./elements";

// Width of a stroke on the canvas of 280 × 280. On MNIST's scale, it is about 2 of 28 pixels.
const WIDTH = 21;
const INK = "#fff";
const GROUND = "#000";
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
  isEmpty = true;

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
    this.isEmpty = true;
    this.pad.classList.remove("inked");
  }

  png(): Promise<Blob> {
    return new Promise((resolve, reject) =>
      this.canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("The drawing can't be read.")))),
    );
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
    this.isEmpty = false;
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
