// Writes ../static, which is committed: a checkout serves the page with no Node at all.
import { copyFile, mkdir, rm } from "node:fs/promises";
import { build } from "esbuild";

const out = "../static";
await rm(out, { recursive: true, force: true });
await mkdir(out);
await build({
  entryPoints: { app: "src/main.ts", style: "src/style.css" },
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  outdir: out,
  legalComments: "inline",
});
for (const file of ["index.html", "favicon.svg"]) await copyFile(file, `${out}/${file}`);
