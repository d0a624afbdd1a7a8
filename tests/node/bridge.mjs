// One library's adapter, driven line by line: `node bridge.mjs drizzle` reads a JSON request per line,
// {"call": "getUser", "with": ["id"]}, and answers each with a line, {"answer": ...} or {"error": ...}.
// "open" and "close" are the bridge's own calls, "storm" makes sessions as fast as it can, "useAll" uses up links;
// all else is the adapter's. JSON has no dates: both sides write {"$date": "2026-02-01T03:04:05.678Z"}.

import readline from "node:readline"

let open, opened

const calls = {
  async open(path) {
    opened = await open(path)
    return Object.keys(opened.methods)
  },
  async close() {
    await opened?.close()
    opened = undefined
  },
  storm,
  // Which of these tokens the adapter found, each used up in turn.
  async useAll(identifier, tokens) {
    const won = []
    for (const token of tokens) {
      if (await opened.methods.useVerificationToken({ identifier, token })) won.push(token)
      await new Promise(setImmediate)
    }
    return won
  },
}

// Makes, prolongs and ends sessions of one user for so many seconds, each step through the adapter. What was
// acknowledged is told; what failed, too, and nothing is tried again.
async function storm(userId, seconds, name) {
  const { createSession, updateSession, deleteSession, getSessionAndUser } = opened.methods
  const kept = {}, ended = [], errors = [], lost = []
  const end = performance.now() + seconds * 1000
  let slowest = 0, steps = 0

  async function step(run) {
    const start = performance.now()
    try {
      return (await run()) ?? true
    } catch (error) {
      errors.push(`${error.code ?? error.name}: ${error.message} ${error.cause?.message ?? ""}`.slice(0, 300))
    } finally {
      steps += 1
      slowest = Math.max(slowest, performance.now() - start)
    }
  }

  for (let i = 0; performance.now() < end; i++) {
    const sessionToken = `${name}-${i}`
    const expires = new Date(Date.now() + 3_600_000 + i)
    if (!(await step(() => createSession({ sessionToken, userId, expires })))) continue
    kept[sessionToken] = expires
    const later = new Date(Date.now() + 7_200_000 + i)
    if (await step(() => updateSession({ sessionToken, expires: later }))) kept[sessionToken] = later
    const found = await step(async () => (await getSessionAndUser(sessionToken)) ?? "lost")
    if (found === "lost") lost.push(sessionToken)
    if (i % 2 && (await step(() => deleteSession(sessionToken)))) {
      delete kept[sessionToken]
      ended.push(sessionToken)
    }
    await new Promise(setImmediate)
  }
  return { kept, ended, errors, lost, steps, slowest }
}

function revive(key, value) {
  return value?.$date === undefined ? value : new Date(value.$date)
}

// toJSON would have turned a date into text before a replacer sees it, so containers are walked by hand.
function plain(value) {
  if (value instanceof Date) return { $date: isNaN(value) ? "invalid" : value.toISOString() }
  if (Array.isArray(value)) return value.map(plain)
  if (typeof value?.toJSON === "function") return plain(value.toJSON()) // a model's instance
  if (value === null || typeof value !== "object") return value ?? null
  return Object.fromEntries(Object.entries(value).map(([name, each]) => [name, plain(each)]))
}

function say(message) {
  process.stdout.write(JSON.stringify(message) + "\n")
}

console.log = console.info = console.warn = console.error // stdout is for answers alone
try {
  ;({ open } = await import(`./${process.argv[2]}.mjs`))
  await (await open(":memory:")).close() // what is compiled is loaded only now
  say({ answer: "ready" })
} catch (error) {
  // Not installed, not compiled, not generated: any other error is one that a test should show.
  if (!/^Cannot find (package|module)|bindings file|prisma generate/m.test(error.message)) throw error
  say({ missing: error.message.trim().split("\n").pop() })
}
for await (const line of readline.createInterface({ input: process.stdin })) {
  const request = JSON.parse(line, revive)
  try {
    const method = calls[request.call] ?? opened.methods[request.call]
    say({ answer: plain(await method(...request.with)) })
  } catch (error) {
    say({ error: `${error.name}: ${error.message}`, trace: `${error.stack} ${error.cause ?? ""}` })
  }
}
process.exit(0)
