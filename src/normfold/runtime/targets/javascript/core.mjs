// The timing worker of normfold.runtime.workers.timing for every JavaScript that has ONNX Runtime: what differs between
// Node and a browser is handed in. A refusal is an exception with a `kind` of normfold.runtime.workers.process.FAILURES.

export const VERSION = 2;
const LEVELS = {
  ORT_DISABLE_ALL: "disabled",
  ORT_ENABLE_BASIC: "basic",
  ORT_ENABLE_EXTENDED: "extended",
  ORT_ENABLE_LAYOUT: "layout",
  ORT_ENABLE_ALL: "all",
};
const MODES = { ORT_SEQUENTIAL: "sequential", ORT_PARALLEL: "parallel" };
const MEMORY = ["bad_alloc", "Failed to allocate memory", "Cannot allocate memory", "out of memory", "Array buffer allocation"];
const FALLBACK = "fallback to CPU EP has been explicitly disabled";
const GRAPHICS = { webgpu: true };
// A run, or a group of short ones, takes this many steps of the clock at the least.
const STEPS = 200;

// NumPy's names of types to those of ONNX Runtime, and the views on their bytes.
const TYPES = {
  "<f4": ["float32", Float32Array],
  "<f8": ["float64", Float64Array],
  "<f2": ["float16", Uint16Array],
  "|i1": ["int8", Int8Array],
  "|u1": ["uint8", Uint8Array],
  "<i2": ["int16", Int16Array],
  "<u2": ["uint16", Uint16Array],
  "<i4": ["int32", Int32Array],
  "<u4": ["uint32", Uint32Array],
  "<i8": ["int64", BigInt64Array],
  "<u8": ["uint64", BigUint64Array],
  "|b1": ["bool", Uint8Array],
};
const DESCRIPTIONS = Object.fromEntries(Object.entries(TYPES).map(([description, [name]]) => [name, description]));

export class Refused extends Error {
  constructor(kind, message) {
    super(message);
    this.kind = kind;
  }
}

// One line of bounded length, without ONNX Runtime's prefix.
export function sentence(error) {
  const text = String(error?.message ?? error).split(/\s+/).join(" ").trim();
  return text.replace(/^\[ONNXRuntimeError\] : /, "").slice(0, 500);
}

export function kindOf(error, otherwise) {
  if (error instanceof Refused) return error.kind;
  return MEMORY.some((words) => String(error).includes(words)) ? "memory" : otherwise;
}

// The reply to one request, whatever happens.
export async function answer(worker, line) {
  try {
    const request = JSON.parse(line);
    if (typeof worker[request.verb] !== "function") throw new Refused("crash", `no verb ${request.verb}`);
    return { ok: true, ...(await worker[request.verb](request)) };
  } catch (error) {
    return { ok: false, kind: kindOf(error, "crash"), message: sentence(error) };
  }
}

async function attempt(kind, job) {
  try {
    return await job();
  } catch (error) {
    throw new Refused(kindOf(error, kind), sentence(error));
  }
}

// The settings of a session in ONNX Runtime's words for JavaScript.
export function sessionOptions(session, providers) {
  if (session.disabled_optimizers.length) throw new Refused("setting", "optimisers cannot be switched off one by one");
  if (!(session.provider in providers)) throw new Refused("provider", `this target has no ${session.provider}`);
  const options = {
    executionProviders: [providers[session.provider]],
    intraOpNumThreads: session.intra_threads,
    interOpNumThreads: session.inter_threads,
    graphOptimizationLevel: "all",
    logSeverityLevel: 4,
    extra: {},
  };
  for (const [name, value] of Object.entries(session.options)) {
    if (name === "graph_optimization_level") options.graphOptimizationLevel = LEVELS[value];
    else if (name === "execution_mode") options.executionMode = MODES[value];
    else if (name === "enable_mem_pattern") options.enableMemPattern = value;
    else if (name === "enable_cpu_mem_arena") options.enableCpuMemArena = value;
    else throw new Refused("setting", `it has no option ${name}`);
  }
  for (const [name, value] of Object.entries(session.config)) {
    const path = name.split(".");
    let at = options.extra;
    for (const part of path.slice(0, -1)) at = at[part] ??= {};
    at[path.at(-1)] = value;
  }
  if (options.executionProviders[0] in GRAPHICS && !session.allow_fallback) {
    (options.extra.session ??= {}).disable_cpu_ep_fallback = "1";
  }
  return options;
}

export class TimingWorker {
  // ort: the API; read(name), write(name, bytes): files of the worker's folder; create(request, options): a session;
  // clock(): nanoseconds; peak(): bytes or null; providers: ONNX Runtime's names to those of JavaScript.
  constructor({ ort, read, write, create, clock, peak, providers }) {
    Object.assign(this, { ort, read, write, create, clock, peak, providers });
    this.models = new Map();
    this.step = clockStep(clock);
  }

  async open(request) {
    const options = sessionOptions(request.session, this.providers);
    const started = this.clock();
    const session = await attempt("invalid", () => this.create(request, options)).catch((error) => {
      throw error.message.includes(FALLBACK) ? new Refused("fallback", error.message) : error;
    });
    const took = this.clock() - started;
    this.models.set(request.name, { session, feeds: null, outputs: null });
    return {
      load_ns: Math.round(took),
      providers: [request.session.provider],
      // Where a node may not run elsewhere, none does.
      placed: options.executionProviders[0] in GRAPHICS ? [] : null,
      inputs: session.inputNames,
      outputs: session.outputNames,
    };
  }

  async bind(request) {
    const held = this.models.get(request.name);
    const feeds = {};
    for (const entry of request.feeds) {
      if (entry.type) throw new Refused("unsupported", `JavaScript has no values of ${entry.type}`);
      feeds[entry.name] = this.tensor(entry.name, await this.read(entry.file));
    }
    const started = this.clock();
    held.outputs = await attempt("run", () => held.session.run(feeds));
    const took = this.clock() - started;
    held.feeds = feeds;
    return { first_run_ns: Math.round(took), peak_rss: await this.peak() };
  }

  async time(request) {
    const ns = [];
    for (const [name, runs] of request.blocks) {
      const held = this.models.get(name);
      ns.push(await attempt("run", () => this.timed(held, runs)));
    }
    return { ns, microjoules: null, no_energy: "JavaScript has no access to energy counters" };
  }

  // Nanoseconds of each of `runs` runs. Where the clock is coarse, runs are timed in groups: each gets its group's mean.
  async timed(held, runs) {
    const found = [];
    let group = 1;
    while (found.length < runs) {
      const count = Math.min(group, runs - found.length);
      const started = this.clock();
      for (let run = 0; run < count; run++) held.outputs = await held.session.run(held.feeds);
      const took = this.clock() - started;
      if (count === group && took < STEPS * this.step && count < runs) {
        group = Math.min(runs, group * 2);
        continue;
      }
      const each = Math.max(1, Math.round(took / count));
      for (let run = 0; run < count; run++) found.push(each);
    }
    return found;
  }

  async outputs(request) {
    const held = this.models.get(request.name);
    const results = [];
    for (const name of held.session.outputNames) {
      const file = `${request.results}/${results.length}.npy`;
      await this.write(file, npy(name, held.outputs[name]));
      results.push({ name, file, type: "" });
    }
    return { results };
  }

  async close(request) {
    const held = this.models.get(request.name);
    this.models.delete(request.name);
    await held?.session.release();
    return {};
  }

  tensor(name, bytes) {
    const { description, shape, data } = parsed(name, bytes);
    const [type, View] = TYPES[description];
    const values = new View(data.buffer, data.byteOffset, data.byteLength / View.BYTES_PER_ELEMENT);
    return new this.ort.Tensor(type, values, shape);
  }
}

// The smallest step that the clock makes, in nanoseconds.
function clockStep(clock) {
  let smallest = Infinity;
  for (let turn = 0; turn < 20; turn++) {
    const from = clock();
    let now = from;
    while (now === from) now = clock();
    smallest = Math.min(smallest, now - from);
  }
  return smallest;
}

// An array of NumPy's format .npy: its type, shape, and a copy of its bytes.
function parsed(name, bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const long = bytes[6] > 1;
  const start = long ? 12 : 10;
  const length = long ? view.getUint32(8, true) : view.getUint16(8, true);
  const header = new TextDecoder("latin1").decode(bytes.subarray(start, start + length));
  const description = header.match(/'descr': '([^']*)'/)?.[1];
  const shape = header.match(/'shape': \(([^)]*)\)/)?.[1].split(",").filter((size) => size.trim()).map(Number);
  if (!(description in TYPES)) throw new Refused("unsupported", `input ${name} has type ${description}`);
  if (!header.includes("'fortran_order': False")) throw new Refused("crash", `input ${name} is in Fortran order`);
  return { description, shape, data: bytes.slice(start + length) };
}

// A tensor in the same format.
function npy(name, tensor) {
  const description = DESCRIPTIONS[tensor?.type];
  if (description === undefined) throw new Refused("unsupported", `output ${name} is of type ${tensor?.type}`);
  const shape = tensor.dims.length === 1 ? `${tensor.dims[0]},` : tensor.dims.join(", ");
  const text = `{'descr': '${description}', 'fortran_order': False, 'shape': (${shape}), }`;
  const size = Math.ceil((text.length + 11) / 64) * 64;
  const header = new TextEncoder().encode(text.padEnd(size - 11) + "\n");
  const data = new Uint8Array(tensor.data.buffer, tensor.data.byteOffset, tensor.data.byteLength);
  const whole = new Uint8Array(10 + header.length + data.length);
  whole.set([0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59, 1, 0, header.length & 255, header.length >> 8]);
  whole.set(header, 10);
  whole.set(data, 10 + header.length);
  return whole;
}
