// Asks one of Auth.js's official adapters what an export has loaded.
//
// node ask.mjs NAME PLACE < PLAN: PLACE is a database in PostgreSQL, Redis's socket, or, where the backend runs in this
// process, the export itself. PLAN says whom to ask for; the answers are printed as JSON.
import { readFileSync } from "node:fs"
import http from "node:http"
import net from "node:net"
import vm from "node:vm"

const [name, place] = process.argv.slice(2)
const plan = JSON.parse(readFileSync(0, "utf8"))
const lines = () => readFileSync(place, "utf8").split("\n").filter((line) => line)
const postgres = () => ({ host: plan.host, user: plan.user, database: place })

const open = {
  async pg() {
    const { default: pg } = await import("pg")
    const { default: PostgresAdapter } = await import("@auth/pg-adapter")
    return PostgresAdapter(new pg.Pool(postgres()))
  },

  async drizzle() {
    const { default: pg } = await import("pg")
    const { drizzle } = await import("drizzle-orm/node-postgres")
    const { DrizzleAdapter } = await import("@auth/drizzle-adapter")
    return DrizzleAdapter(drizzle(new pg.Pool(postgres())))
  },

  async typeorm() {
    const { TypeORMAdapter } = await import("@auth/typeorm-adapter")
    return TypeORMAdapter({ type: "postgres", ...postgres(), username: plan.user })
  },

  async sequelize() {
    const { Sequelize } = await import("sequelize")
    const { default: SequelizeAdapter } = await import("@auth/sequelize-adapter")
    const { host, user, database } = postgres()
    const client = new Sequelize(database, user, "", { dialect: "postgres", host, logging: false })
    return SequelizeAdapter(client, { synchronize: false })
  },

  // The real client of Upstash speaks HTTP, so a server between it and Redis takes its commands, one or several.
  async redis() {
    const { Redis } = await import("@upstash/redis")
    const { UpstashRedisAdapter } = await import("@auth/upstash-redis-adapter")
    const run = (command) =>
      new Promise((resolve, reject) => {
        const socket = net.connect(place)
        let reply = Buffer.alloc(0)
        const parts = command.map((part) => Buffer.from(String(part)))
        const head = (part) => Buffer.concat([Buffer.from(`$${part.length}\r\n`), part, Buffer.from("\r\n")])
        socket.write(Buffer.concat([Buffer.from(`*${parts.length}\r\n`), ...parts.map(head)]))
        socket.on("error", reject)
        socket.on("data", (data) => {
          reply = Buffer.concat([reply, data])
          const end = reply.indexOf("\r\n")
          if (end < 0) return
          const [kind, text] = [String.fromCharCode(reply[0]), reply.toString("utf8", 1, end)]
          if (kind === "$" && text !== "-1" && reply.length < end + 4 + Number(text)) return
          socket.destroy()
          if (kind === "-") return reject(new Error(text))
          if (kind === "$") resolve(text === "-1" ? null : reply.toString("utf8", end + 2, end + 2 + Number(text)))
          else resolve(kind === ":" ? Number(text) : text)
        })
      })
    const server = http.createServer(async (request, response) => {
      let body = ""
      for await (const piece of request) body += piece
      const given = JSON.parse(body)
      const several = Array.isArray(given[0])
      const results = await Promise.all((several ? given : [given]).map(run))
      const answers = results.map((result) => ({ result }))
      response.end(JSON.stringify(several ? answers : answers[0]))
    })
    await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve))
    const url = `http://127.0.0.1:${server.address().port}`
    const client = new Redis({ url, token: "none", responseEncoding: false, enableTelemetry: false })
    return UpstashRedisAdapter(client, { baseKeyPrefix: plan.prefix })
  },

  async dynamodb() {
    const { default: dynalite } = await import("dynalite")
    const { BatchWriteItemCommand, CreateTableCommand, DynamoDB } = await import("@aws-sdk/client-dynamodb")
    const { DynamoDBDocument } = await import("@aws-sdk/lib-dynamodb")
    const { DynamoDBAdapter } = await import("@auth/dynamodb-adapter")
    const server = dynalite({ createTableMs: 0 })
    await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve))
    const client = new DynamoDB({
      endpoint: `http://127.0.0.1:${server.address().port}`,
      region: "local",
      credentials: { accessKeyId: "none", secretAccessKey: "none" },
    })
    const key = (hash, range) => [
      { AttributeName: hash, KeyType: "HASH" },
      { AttributeName: range, KeyType: "RANGE" },
    ]
    await client.send(
      new CreateTableCommand({
        TableName: "next-auth",
        BillingMode: "PAY_PER_REQUEST",
        AttributeDefinitions: ["pk", "sk", "GSI1PK", "GSI1SK"].map((AttributeName) => ({
          AttributeName,
          AttributeType: "S",
        })),
        KeySchema: key("pk", "sk"),
        GlobalSecondaryIndexes: [
          { IndexName: "GSI1", KeySchema: key("GSI1PK", "GSI1SK"), Projection: { ProjectionType: "ALL" } },
        ],
      })
    )
    for (;;) {
      const { Table } = await client.describeTable({ TableName: "next-auth" })
      if (Table.TableStatus === "ACTIVE" && Table.GlobalSecondaryIndexes[0].IndexStatus === "ACTIVE") break
      await new Promise((resolve) => setTimeout(resolve, 10))
    }
    for (const line of lines()) await client.send(new BatchWriteItemCommand({ RequestItems: JSON.parse(line) }))
    return DynamoDBAdapter(DynamoDBDocument.from(client))
  },

  async pouchdb() {
    const { default: PouchDB } = await import("pouchdb-core")
    for (const plugin of ["pouchdb-adapter-memory", "pouchdb-find"]) PouchDB.plugin((await import(plugin)).default)
    const { PouchDBAdapter, createIndexes } = await import("@auth/pouchdb-adapter")
    const pouchdb = new PouchDB("users", { adapter: "memory" })
    for (const line of lines())
      for (const answer of await pouchdb.bulkDocs(JSON.parse(line))) if (answer.error) throw answer
    await createIndexes(pouchdb) // they are there: this must not make them anew
    for (const { id, value } of (await pouchdb.allDocs()).rows)
      if (id.startsWith("_design/") && value.rev[0] !== "1") throw new Error(`${id} was made anew`)
    return PouchDBAdapter({ pouchdb })
  },

  // No mongod can be had as a package. The script is run as mongosh would, with the driver's own BSON; what stands
  // in for the server keeps documents as they come, and compares as BSON does.
  async mongodb() {
    const { BSON } = await import("mongodb")
    const { MongoDBAdapter } = await import("@auth/mongodb-adapter")
    const collections = {}
    const same = (a, b) => BSON.EJSON.stringify(a ?? null) === BSON.EJSON.stringify(b ?? null)
    const collection = (name) => {
      const documents = (collections[name] ??= [])
      const find = (wanted) => (one) => Object.entries(wanted).every(([key, value]) => same(one[key], value))
      const remove = (wanted) => documents.filter(find(wanted)).map((one) => documents.splice(documents.indexOf(one), 1))
      const insert = (one) => {
        if (documents.some(find({ _id: one._id }))) throw new Error("duplicate key")
        documents.push(BSON.deserialize(BSON.serialize(one)))
      }
      return {
        insertMany: (several) => several.forEach(insert),
        insertOne: async (one) => insert(one),
        findOne: async (wanted) => documents.find(find(wanted)) ?? null,
        findOneAndUpdate: async (wanted, { $set }) => Object.assign(documents.find(find(wanted)), $set),
        findOneAndDelete: async (wanted) => remove(wanted)[0]?.[0] ?? null,
        deleteOne: async (wanted) => remove(wanted),
        deleteMany: async (wanted) => remove(wanted),
      }
    }
    const db = { getCollection: collection, collection }
    vm.runInNewContext(readFileSync(place, "utf8"), { db, EJSON: BSON.EJSON })
    return MongoDBAdapter({ db: () => db })
  },
}

const adapter = await open[name]()
const each = async (asked, ask) => {
  const answers = []
  for (const one of asked) answers.push((await ask(one)) ?? null)
  return answers
}
let answers = {
  users: await each(plan.emails, (email) => adapter.getUserByEmail(email)),
  owners: await each(plan.accounts, (account) => adapter.getUserByAccount(account)),
  sessions: await each(plan.sessions, (token) => adapter.getSessionAndUser(token)),
  tokens: await each([plan.token, plan.token], (token) => adapter.useVerificationToken(token)),
}
if (adapter.getAuthenticator) answers.passkeys = await each(plan.passkeys, (id) => adapter.getAuthenticator(id))
const [{ id }] = answers.users
answers.found = await each(answers.users.filter(Boolean), (user) => adapter.getUser(user.id))
answers = JSON.parse(JSON.stringify(answers)) // as they are now: some adapters return what they keep

// And it goes on from there: a changed name, a new session, a new user, the end of the first.
await adapter.updateUser({ id, name: "changed" })
await adapter.createSession({ sessionToken: "new", userId: id, expires: new Date(plan.expires) })
const { user } = await adapter.getSessionAndUser("new")
const added = await adapter.createUser({ id: plan.newId, email: "new@example.com", emailVerified: null })
await adapter.deleteUser(id)
answers.after = {
  name: user.name,
  added: added.id,
  addedFound: (await adapter.getUserByEmail("new@example.com"))?.id,
  deleted: (await adapter.getUser(id)) === null,
}
console.log(JSON.stringify(answers))
process.exit(0)
