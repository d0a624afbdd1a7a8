import { D1Adapter } from "@auth/d1-adapter"
import Database from "better-sqlite3"

// D1 itself is Cloudflare's; under it is SQLite, and its adapter uses no more than this of it.
class D1 {
  constructor(path) {
    this.database = new Database(path)
  }

  prepare(sql) {
    const statement = this.database.prepare(sql)
    return {
      bind: (...values) => ({
        first: async () => (statement.reader ? statement.get(...values) : void statement.run(...values)) ?? null,
        all: async () => ({ success: true, results: statement.all(...values) }),
        run: async () => ({ success: true, meta: statement.run(...values) }),
      }),
    }
  }
}

export async function open(path) {
  const d1 = new D1(path)
  return { methods: D1Adapter(d1), close: () => d1.database.close() }
}
