import { PrismaAdapter } from "@auth/prisma-adapter"
import { PrismaBetterSqlite3 } from "@prisma/adapter-better-sqlite3"
import { PrismaClient } from "@prisma/client" // made by: npx prisma generate

export async function open(path) {
  const client = new PrismaClient({ adapter: new PrismaBetterSqlite3({ url: `file:${path}` }) })
  return { methods: PrismaAdapter(client), close: () => client.$disconnect() }
}
