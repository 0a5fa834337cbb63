// The timing worker in Node: requests on standard input, replies on standard output, files in the working directory.
// Its argument is the folder in which npm installed onnxruntime-node.

import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, openSync, readFileSync, readSync, closeSync, readdirSync, statSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { createRequire } from "node:module";
import os from "node:os";
import path from "node:path";
import readline from "node:readline";
import { Refused, TimingWorker, VERSION, answer, sentence } from "./core.mjs";

const PIECE = 1 << 20;
const FULL = ["ENOSPC", "EDQUOT"];
const require = createRequire(path.join(path.resolve(process.argv[2]), "package.json"));
const clock = () => Number(process.hrtime.bigint());
const peak = () => process.resourceUsage().maxRSS * 1024;

class Node {
  hello(request) {
    if (request.cpus.length) pin(request.cpus);
    const started = clock();
    const ort = load();
    const took = clock() - started;
    this.timing = new TimingWorker({
      ort,
      read: (name) => readFileSync(inside(name)),
      write,
      create: (asked, options) => ort.InferenceSession.create(inside(asked.model), { ...options, ...this.profiled }),
      clock,
      peak,
      providers: { CPUExecutionProvider: "cpu" },
    });
    return {
      protocol: VERSION,
      machine: {
        system: os.type(),
        architecture: os.machine(),
        processor: os.cpus()[0]?.model ?? "unknown",
        cpus: os.cpus().length,
        node: process.version,
      },
      import_ns: Math.round(took),
      onnxruntime: ort.env.versions.node,
      runtime_bytes: installedBytes(),
      available: ["CPUExecutionProvider"],
      cpus: allowed(),
      peak_rss: peak(),
    };
  }

  held(request) {
    const file = inside(request.file);
    return { held: existsSync(file) && checksum(file) === request.sha256 };
  }

  put(request) {
    const file = inside(request.file);
    try {
      mkdirSync(path.dirname(file), { recursive: true });
      const opened = openSync(file, request.at ? "r+" : "w");
      const data = Buffer.from(request.data, "base64");
      for (let at = 0; at < data.length; ) at += writeSync(opened, data, at, data.length - at, request.at + at);
      closeSync(opened);
    } catch (error) {
      throw new Refused(FULL.includes(error.code) ? "space" : "crash", `a file cannot be written: ${error.message}`);
    }
    if (request.sha256 !== null && checksum(file) !== request.sha256) {
      rmSync(file);
      throw new Refused("link", `${request.file} did not arrive as it was sent`);
    }
    return {};
  }

  get(request) {
    const file = inside(request.file);
    const size = statSync(file).size;
    const piece = Buffer.alloc(Math.max(0, Math.min(PIECE, size - request.at)));
    const opened = openSync(file, "r");
    readSync(opened, piece, 0, piece.length, request.at);
    closeSync(opened);
    const last = request.at + piece.length >= size;
    const sha256 = last ? checksum(file) : null;
    if (last) rmSync(file);
    return { data: piece.toString("base64"), sha256 };
  }

  open(request) { return this.timing.open(request); }
  bind(request) { return this.timing.bind(request); }
  time(request) { return this.timing.time(request); }
  outputs(request) { return this.timing.outputs(request); }
  close(request) { return this.timing.close(request); }

  // Runs a model `runs` times; what ONNX Runtime's profiler writes of that is in the file `trace`.
  async profile(request) {
    this.profiled = { enableProfiling: true, profileFilePrefix: request.results };
    await this.open({ ...request, name: "profile" });
    this.profiled = {};
    await this.bind({ ...request, name: "profile" });
    const { session, feeds } = this.timing.models.get("profile");
    for (let run = 0; run < request.runs; run++) await session.run(feeds);
    session.endProfiling();
    await this.close({ name: "profile" });
    return { trace: readdirSync(".").find((name) => name.startsWith(`${request.results}_`)) };
  }
}

function load() {
  try {
    return require("onnxruntime-node");
  } catch (error) {
    throw new Refused("target", `a model without onnxruntime-node: ${sentence(error)}`);
  }
}

// Every thread that there is, and those that these start.
function pin(cpus) {
  try {
    execFileSync("taskset", ["-a", "-c", "-p", cpus.join(","), String(process.pid)], { stdio: "ignore" });
  } catch (error) {
    throw new Refused("setting", `taskset cannot choose processors: ${sentence(error)}`);
  }
}

// The processors that Linux lets this process run on; null elsewhere.
function allowed() {
  try {
    const listed = readFileSync("/proc/self/status", "utf8").match(/^Cpus_allowed_list:\s*(.*)$/m)[1];
    return listed.split(",").flatMap((part) => {
      const [first, last = first] = part.split("-").map(Number);
      return Array.from({ length: last - first + 1 }, (_, index) => first + index);
    });
  } catch {
    return null;
  }
}

// Bytes of what an application ships: the libraries for this platform, and the scripts.
function installedBytes() {
  const root = path.dirname(path.dirname(require.resolve("onnxruntime-node")));
  const binaries = path.join(root, "bin");
  const folders = [path.join(root, "dist")];
  for (const version of readdirSync(binaries)) folders.push(path.join(binaries, version, process.platform, process.arch));
  const files = folders.filter(existsSync).flatMap((folder) => readdirSync(folder).map((name) => path.join(folder, name)));
  return files.filter((file) => !file.endsWith(".map")).reduce((sum, file) => sum + statSync(file).size, 0);
}

function write(name, bytes) {
  const file = inside(name);
  mkdirSync(path.dirname(file), { recursive: true });
  writeFileSync(file, bytes);
}

function checksum(file) {
  return createHash("sha256").update(readFileSync(file)).digest("hex");
}

function inside(name) {
  if (path.isAbsolute(name) || name.split("/").includes("..")) throw new Refused("crash", `${name} is not a file here`);
  return name;
}

const worker = new Node();
const lines = readline.createInterface({ input: process.stdin, crlfDelay: Infinity });
let last = Promise.resolve();
lines.on("line", (line) => {
  last = last.then(async () => process.stdout.write(JSON.stringify(await answer(worker, line)) + "\n"));
});
lines.on("close", () => process.exit(0));
