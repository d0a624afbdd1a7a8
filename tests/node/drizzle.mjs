import { DrizzleAdapter } from "@auth/drizzle-adapter"
import Database from "better-sqlite3"
import { drizzle } from "drizzle-orm/better-sqlite3"

export async function open(path) {
  const database = new Database(path)
  return { methods: DrizzleAdapter(drizzle({ client: database })), close: () => database.close() }
}
