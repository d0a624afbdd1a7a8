import SequelizeAdapter, { models } from "@auth/sequelize-adapter"
import { Sequelize } from "sequelize"

export async function open(path) {
  const client = new Sequelize({ dialect: "sqlite", storage: path, logging: false })
  const adapter = SequelizeAdapter(client)
  return {
    methods: {
      ...adapter,
      // What sequelize.sync() runs: the adapter does so at its first call, unless told not to.
      async migrations() {
        const seen = []
        await client.sync({ logging: (sql) => seen.push(sql) })
        return seen.filter((sql) => !/PRAGMA|SELECT/.test(sql))
      },
    },
    close: () => client.close(),
  }
}
