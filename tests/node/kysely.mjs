import { KyselyAdapter } from "@auth/kysely-adapter"
import Database from "better-sqlite3"
import { Kysely, SqliteDialect } from "kysely"

export async function open(path) {
  const database = new Kysely({ dialect: new SqliteDialect({ database: new Database(path) }) })
  return { methods: KyselyAdapter(database), close: () => database.destroy() }
}
