import { DataSource } from "typeorm"

let times = 0

export async function open(path) {
  const options = { type: "better-sqlite3", database: path, synchronize: false }
  // The adapter keeps its first connection in its module, so another file needs another copy of the module.
  const { TypeORMAdapter, entities } = await import(`${import.meta.resolve("@auth/typeorm-adapter")}?${times++}`)
  const { __disconnect, ...methods } = TypeORMAdapter(options)
  return {
    methods: {
      ...methods,
      // What TypeORM would run to make the tables match its entities.
      async migrations() {
        const source = await new DataSource({ ...options, entities: Object.values(entities) }).initialize()
        try {
          const { upQueries } = await source.driver.createSchemaBuilder().log()
          await source.synchronize()
          return upQueries.map(({ query }) => query)
        } finally {
          await source.destroy()
        }
      },
    },
    close: __disconnect,
  }
}
