// Runs tests in CPython compiled to WebAssembly, which has a file system of its own, in memory, and no threads.
//
// node --stack-size=6000 wasm.mjs PROJECT PACKAGES ARGUMENT...: PROJECT is this project's folder, PACKAGES the one that
// pytest is installed in, for any Python: it is written in Python alone. The arguments are pytest's.
import { loadPyodide } from "pyodide"

const [project, packages, ...args] = process.argv.slice(2)
const python = await loadPyodide()
for (const [place, root] of [["/project", project], ["/packages", packages]]) {
  python.FS.mkdirTree(place)
  python.FS.mount(python.FS.filesystems.NODEFS, { root }, place)
}
python.globals.set("args", args)
process.exitCode = python.runPython(`
import os, sys
sys.dont_write_bytecode = True
sys.path += ["/project/tests", "/packages"]
os.chdir("/project")
import one_thread
one_thread.run(args.to_py())
`)
