// All of Auth.js, as `next-auth` 5 runs it, over the Drizzle adapter: a request in, a response out.

import { Auth, skipCSRFCheck } from "@auth/core"
import { DrizzleAdapter } from "@auth/drizzle-adapter"
import Database from "better-sqlite3"
import { drizzle } from "drizzle-orm/better-sqlite3"

export async function open(path) {
  const database = new Database(path)
  const sent = []
  const config = {
    adapter: DrizzleAdapter(drizzle({ client: database })),
    providers: [
      { id: "email", type: "email", name: "Email", from: "app@example.com", maxAge: 3600, options: {},
        sendVerificationRequest: (mail) => void sent.push(mail) },
    ],
    secret: "made-up-auth-secret",
    basePath: "/api/auth",
    trustHost: true,
    skipCSRFCheck,
  }

  async function request(method, url, cookie, form) {
    const headers = { ...(cookie && { cookie }) }
    const body = form && new URLSearchParams(form)
    const response = await Auth(new Request(url, { method, headers, body }), config)
    const cookies = Object.fromEntries(
      response.headers.getSetCookie().map((line) => line.split(";")[0].split(/=(.*)/s).slice(0, 2))
    )
    return { status: response.status, cookies, to: response.headers.get("location"), body: await response.text() }
  }

  return {
    methods: {
      request,
      async askForLink(email) {
        await request("POST", "http://localhost:3000/api/auth/signin/email", "", { email })
        return sent.pop()
      },
    },
    close: () => database.close(),
  }
}
