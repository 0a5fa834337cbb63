// The timing worker in a browser, in a thread of its own; files come from the server that served this script.

import { Refused, TimingWorker, VERSION, answer, sentence } from "./core.mjs";

const ORT = new URL("ort/", import.meta.url).href;
const FILES = new URL("files/", import.meta.url).href;
// One Identity: the WebAssembly module is compiled with the first session, and that is no part of any other.
const SMALLEST = "CAcSADo3ChAKAXgSAXkiCElkZW50aXR5EgFuWg8KAXgSCgoICAESBAoCCAFiDwoBeRIKCggIARIECgIIAUIECgAQDQ==";
const clock = () => performance.now() * 1e6;

class Browser {
  async hello(request) {
    if (!self.crossOriginIsolated) throw new Refused("target", "threads: the page is not cross-origin isolated");
    const started = clock();
    const ort = await load(request.threads, request.providers.includes("webgpu"));
    const took = clock() - started;
    this.timing = new TimingWorker({
      ort,
      read,
      write,
      create: async (asked, options) => {
        options.externalData = await Promise.all(
          asked.data.map(async (location) => ({ path: location, data: await read(`${asked.data_folder}/${location}`) })),
        );
        return ort.InferenceSession.create(await read(asked.model), options);
      },
      clock,
      peak: () => null,
      providers: { CPUExecutionProvider: "wasm", WebGpuExecutionProvider: "webgpu" },
    });
    return {
      protocol: VERSION,
      import_ns: Math.round(took),
      onnxruntime: ort.env.versions.web,
      available: ["CPUExecutionProvider"],
    };
  }

  open(request) { return this.timing.open(request); }
  bind(request) { return this.timing.bind(request); }
  time(request) { return this.timing.time(request); }
  outputs(request) { return this.timing.outputs(request); }
  close(request) { return this.timing.close(request); }
}

async function load(threads, graphics) {
  try {
    const ort = await import(`${ORT}${graphics ? "ort.webgpu.min.mjs" : "ort.wasm.min.mjs"}`);
    ort.env.wasm.wasmPaths = ORT;
    ort.env.wasm.numThreads = threads;
    ort.env.logLevel = "fatal";
    const bytes = Uint8Array.from(atob(SMALLEST), (letter) => letter.charCodeAt(0));
    const session = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
    await session.release();
    return ort;
  } catch (error) {
    throw new Refused("target", `a model without onnxruntime-web: ${sentence(error)}`);
  }
}

function address(name) {
  return FILES + name.split("/").map(encodeURIComponent).join("/");
}

async function read(name) {
  const response = await fetch(address(name), { cache: "no-store" });
  if (!response.ok) throw new Refused("crash", `${name} cannot be read: ${response.status}`);
  return new Uint8Array(await response.arrayBuffer());
}

async function write(name, bytes) {
  const response = await fetch(address(name), { method: "PUT", body: bytes });
  if (response.status === 507) throw new Refused("space", `${name} cannot be written`);
  if (!response.ok) throw new Refused("crash", `${name} cannot be written: ${response.status}`);
}

const worker = new Browser();
self.onmessage = async ({ data }) => self.postMessage(JSON.stringify(await answer(worker, data)));
