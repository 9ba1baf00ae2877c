// Draws points on a canvas, and pans and zooms them. Pixels are computed here rather than by WebGL, so that every browser
// draws them. 60,000 points take less than a frame of 16 ms.

export interface Points {
  /** Places, from 0 to 65,535 from the left and from the top. */
  x: Uint16Array;
  y: Uint16Array;
  /** Position of each point's colour in the palette. */
  colours: Uint16Array;
}

type Rgb = readonly [number, number, number];

const EXTENT = 65535;
// Share of the canvas that the whole map takes.
const FIT = 0.94;
// Maximum zoom. At 400, the images on a map of 1,000,000 are typically 200 pixels apart.
const MAX_ZOOM = 400;
// Points that are drawn while the map moves. More would make it stutter; the rest follow when it rests.
const MAX_MOVING = 150_000;
// Milliseconds without a movement after which the map rests.
const REST_MS = 150;
// Pixels that a pointer may move between press and release in a click.
const CLICK_PX = 5;
// Distance in pixels from which a click or the pointer takes the nearest point.
const REACH_PX = 14;
// Opacity of a point, 0 to 256. It is below 256 so that points show where they overlap.
const OPACITY = 220;
const KEY_STEP_PX = 60;
const KEY_ZOOM = 1.5;

export class Plot {
  private readonly context: CanvasRenderingContext2D;
  private points: Points = { x: new Uint16Array(), y: new Uint16Array(), colours: new Uint16Array() };
  private palette: Rgb[] = [];
  private width = 1; // of the canvas, in CSS pixels
  private height = 1;
  private zoom = 1;
  private centreX = EXTENT / 2;
  private centreY = EXTENT / 2;
  private readonly pointers = new Map<number, { x: number; y: number }>();
  private moved = 0; // pixels since the pointer was pressed
  private frame = 0;
  private rest = 0;
  private isMoving = false;

  /** `element` contains the canvas and receives the events. */
  constructor(
    private readonly element: HTMLElement,
    private readonly canvas: HTMLCanvasElement,
    private readonly on: {
      /** Draws over the points. */
      over: (context: CanvasRenderingContext2D) => void;
      rested: () => void;
      chosen: (index: number) => void;
      /** The point at the pointer or, with the keyboard, in the middle; -1 if there is none. */
      pointed: (index: number) => void;
    },
  ) {
    this.context = canvas.getContext("2d", { alpha: false })!;
    new ResizeObserver(() => this.resize()).observe(element);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    element.addEventListener("pointerdown", (event) => this.press(event));
    element.addEventListener("pointermove", (event) => this.drag(event));
    element.addEventListener("pointerup", (event) => this.release(event));
    element.addEventListener("pointercancel", (event) => this.pointers.delete(event.pointerId));
    element.addEventListener("pointerleave", () => this.on.pointed(-1));
    element.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    element.addEventListener("keydown", (event) => this.key(event));
    for (const change of ["focus", "blur"]) element.addEventListener(change, () => this.draw());
  }

  /** Show other points, all of them. */
  show(points: Points): void {
    this.points = points;
    this.whole();
  }

  setPalette(palette: Rgb[]): void {
    this.palette = palette;
    this.draw();
  }

  /** CSS pixels for one unit of the map. */
  get scale(): number {
    return (Math.min(this.width, this.height) / EXTENT) * FIT * this.zoom;
  }

  /** The place of a map's coordinates on the canvas, in CSS pixels. */
  place(x: number, y: number): [number, number] {
    return [(x - this.centreX) * this.scale + this.width / 2, (y - this.centreY) * this.scale + this.height / 2];
  }

  /** The points on the canvas and up to `margin` CSS pixels around it; null if there are more than `most`. */
  inView(margin: number, most: number): number[] | null {
    const { x, y } = this.points;
    const halfWidth = (this.width / 2 + margin) / this.scale;
    const halfHeight = (this.height / 2 + margin) / this.scale;
    const found: number[] = [];
    for (let i = 0; i < x.length; i++) {
      if (Math.abs(x[i]! - this.centreX) < halfWidth && Math.abs(y[i]! - this.centreY) < halfHeight) {
        if (found.length === most) return null;
        found.push(i);
      }
    }
    return found;
  }

  whole(): void {
    this.zoom = 1;
    this.centreX = this.centreY = EXTENT / 2;
    this.changed();
  }

  /** Move a place into the middle, unless it is on the canvas. */
  reveal(x: number, y: number): void {
    const [left, top] = this.place(x, y);
    if (left > 0 && left < this.width && top > 0 && top < this.height) return;
    this.centreX = x;
    this.centreY = y;
    this.changed();
  }

  /** Zoom. The place at (left, top), in CSS pixels, stays where it is; by default the middle. */
  zoomBy(factor: number, left = this.width / 2, top = this.height / 2): void {
    const before = this.scale;
    this.zoom = Math.min(Math.max(this.zoom * factor, 1), MAX_ZOOM);
    const change = 1 / before - 1 / this.scale;
    this.centreX += (left - this.width / 2) * change;
    this.centreY += (top - this.height / 2) * change;
    this.changed();
  }

  /** Draw everything in the next frame. */
  draw(): void {
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      this.drawPoints();
      this.on.over(this.context);
      this.drawCross();
    });
  }

  private resize(): void {
    const { width, height } = this.element.getBoundingClientRect();
    if (!width || !height) return; // hidden
    this.width = width;
    this.height = height;
    this.canvas.width = Math.round(width * devicePixelRatio);
    this.canvas.height = Math.round(height * devicePixelRatio);
    this.changed();
  }

  private pan(right: number, down: number): void {
    this.centreX -= right / this.scale;
    this.centreY -= down / this.scale;
    this.changed();
  }

  private changed(): void {
    const within = (value: number) => Math.min(Math.max(value, 0), EXTENT);
    this.centreX = within(this.centreX);
    this.centreY = within(this.centreY);
    this.isMoving = true;
    clearTimeout(this.rest);
    this.rest = window.setTimeout(() => {
      this.isMoving = false;
      this.draw();
      this.on.rested();
    }, REST_MS);
    this.draw();
  }

  private drawPoints(): void {
    const { width, height } = this.canvas;
    const { x, y, colours } = this.points;
    const { context, palette } = this;
    const image = context.createImageData(width, height);
    const pixels = new Uint32Array(image.data.buffer);
    const [red, green, blue] = rgb(getComputedStyle(this.element).backgroundColor);
    pixels.fill(0xff000000 | (blue << 16) | (green << 8) | red);
    const ratio = width / this.width;
    const scale = this.scale * ratio;
    const left = width / 2 - this.centreX * scale;
    const top = height / 2 - this.centreY * scale;
    const { side, offsets, opacities } = discOf(ratio * radiusOf(this.width * this.height, x.length, this.zoom), width);
    const step = this.isMoving ? Math.ceil(x.length / MAX_MOVING) : 1;
    for (let i = 0; i < x.length; i += step) {
      const column = Math.round(x[i]! * scale + left - side / 2);
      const row = Math.round(y[i]! * scale + top - side / 2);
      if (column < 0 || row < 0 || column + side > width || row + side > height) continue;
      const colour = palette[colours[i]!]!;
      const corner = row * width + column;
      for (let k = 0; k < offsets.length; k++) {
        const opacity = opacities[k]!;
        const pixel = pixels[corner + offsets[k]!]!;
        const r = pixel & 255;
        const g = (pixel >> 8) & 255;
        const b = (pixel >> 16) & 255;
        pixels[corner + offsets[k]!] =
          0xff000000 |
          ((b + (((colour[2] - b) * opacity) >> 8)) << 16) |
          ((g + (((colour[1] - g) * opacity) >> 8)) << 8) |
          (r + (((colour[0] - r) * opacity) >> 8));
      }
    }
    context.putImageData(image, 0, 0);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
  }

  /** With the keyboard, Enter takes the point at the cross in the middle. */
  private drawCross(): void {
    if (!this.element.matches(":focus-visible")) return;
    const { context } = this;
    const [x, y] = [this.width / 2, this.height / 2];
    context.strokeStyle = getComputedStyle(this.element).color;
    context.lineWidth = 1.5;
    context.beginPath();
    for (const [right, down] of [[1, 0], [-1, 0], [0, 1], [0, -1]] as const) {
      context.moveTo(x + right * 5, y + down * 5);
      context.lineTo(x + right * 12, y + down * 12);
    }
    context.stroke();
  }

  /** The point nearest to a place, in CSS pixels; -1 if none is within reach. */
  private nearest(left: number, top: number, reach: number): number {
    const { x, y } = this.points;
    const atX = (left - this.width / 2) / this.scale + this.centreX;
    const atY = (top - this.height / 2) / this.scale + this.centreY;
    let best = -1;
    let least = (reach / this.scale) ** 2;
    for (let i = 0; i < x.length; i++) {
      const distance = (x[i]! - atX) ** 2 + (y[i]! - atY) ** 2;
      if (distance < least) [best, least] = [i, distance];
    }
    return best;
  }

  private inside(event: MouseEvent): { x: number; y: number } {
    const box = this.element.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  }

  private press(event: PointerEvent): void {
    if (event.button !== 0) return;
    this.element.setPointerCapture(event.pointerId);
    if (!this.pointers.size) this.moved = 0;
    this.pointers.set(event.pointerId, this.inside(event));
  }

  private drag(event: PointerEvent): void {
    const now = this.inside(event);
    const before = this.pointers.get(event.pointerId);
    if (!before) {
      this.on.pointed(this.nearest(now.x, now.y, REACH_PX));
      return;
    }
    this.moved += Math.hypot(now.x - before.x, now.y - before.y);
    const other = [...this.pointers].find(([id]) => id !== event.pointerId)?.[1];
    if (other) {
      const distance = (to: { x: number; y: number }) => Math.max(Math.hypot(to.x - other.x, to.y - other.y), 1);
      this.zoomBy(distance(now) / distance(before), other.x, other.y);
    } else if (this.moved > CLICK_PX) {
      this.pan(now.x - before.x, now.y - before.y);
    }
    this.pointers.set(event.pointerId, now);
  }

  private release(event: PointerEvent): void {
    const at = this.pointers.get(event.pointerId);
    this.pointers.delete(event.pointerId);
    if (!at || this.pointers.size || this.moved > CLICK_PX) return;
    const index = this.nearest(at.x, at.y, REACH_PX);
    if (index >= 0) this.on.chosen(index);
  }

  private wheel(event: WheelEvent): void {
    event.preventDefault();
    const { x, y } = this.inside(event);
    const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 16 : 1;
    this.zoomBy(Math.exp(-event.deltaY * lines * 0.002), x, y);
  }

  private key(event: KeyboardEvent): void {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const middle = () => this.nearest(this.width / 2, this.height / 2, Infinity);
    const actions: Record<string, () => void> = {
      ArrowLeft: () => this.pan(KEY_STEP_PX, 0),
      ArrowRight: () => this.pan(-KEY_STEP_PX, 0),
      ArrowUp: () => this.pan(0, KEY_STEP_PX),
      ArrowDown: () => this.pan(0, -KEY_STEP_PX),
      "+": () => this.zoomBy(KEY_ZOOM),
      "=": () => this.zoomBy(KEY_ZOOM),
      "-": () => this.zoomBy(1 / KEY_ZOOM),
      "0": () => this.whole(),
      Enter: () => this.on.chosen(middle()),
    };
    const action = actions[event.key];
    if (!action || !this.points.x.length) return;
    event.preventDefault();
    action();
    if (event.key !== "Enter") this.on.pointed(middle());
  }
}

/** The radius of a point, in CSS pixels: smaller for more points, larger when zoomed in. */
function radiusOf(area: number, count: number, zoom: number): number {
  const typical = 0.42 * Math.sqrt(area / Math.max(count, 1)) * zoom ** 0.4;
  return Math.min(Math.max(typical, 0.6), 5);
}

/** The pixels of a smooth disc: offsets from the corner of its square, in an image of some width, and opacities to 256. */
function discOf(radius: number, width: number): { side: number; offsets: number[]; opacities: number[] } {
  const side = Math.ceil(2 * radius + 1);
  const middle = (side - 1) / 2;
  const offsets: number[] = [];
  const opacities: number[] = [];
  for (let row = 0; row < side; row++) {
    for (let column = 0; column < side; column++) {
      const inside = radius + 0.5 - Math.hypot(column - middle, row - middle);
      if (inside <= 0) continue;
      offsets.push(row * width + column);
      opacities.push(Math.round(OPACITY * Math.min(inside, 1)));
    }
  }
  return { side, offsets, opacities };
}

/** The channels of a colour such as "rgb(1, 2, 3)". */
export function rgb(colour: string): [number, number, number] {
  const [red = 0, green = 0, blue = 0] = colour.match(/[\d.]+/g)?.map(Number) ?? [];
  return [red, green, blue];
}
