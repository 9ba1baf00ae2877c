// Builds the page into a folder: `node build.mjs [FOLDER]`. The same source always gives the same files.
import { build } from "esbuild";
import { cpSync } from "node:fs";

const folder = process.argv[2] ?? "../encoder_service/http/page";
await build({
  entryPoints: ["src/page.ts", "src/page.css"],
  outdir: folder,
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  legalComments: "none",
});
for (const file of ["index.html", "icon.svg"]) {
  cpSync(`src/${file}`, `${folder}/${file}`);
}
