import { passkey } from "@better-auth/passkey"
import { betterAuth } from "better-auth"
import { getMigrations } from "better-auth/db/migration"
import { magicLink } from "better-auth/plugins"
import Database from "better-sqlite3"

const origin = "http://localhost:3000"
const secret = "made-up-secret-0123456789-abcdefghijklmnop"

export async function open(path) {
  const database = new Database(path)
  const sent = []
  const auth = betterAuth({
    database,
    secret,
    baseURL: origin,
    rateLimit: { enabled: false },
    telemetry: { enabled: false },
    logger: { disabled: true },
    emailAndPassword: { enabled: true },
    plugins: [magicLink({ sendMagicLink: (mail) => void sent.push(mail) }), passkey()],
  })

  async function request(method, url, cookie, body) {
    const headers = { origin, ...(cookie && { cookie }), ...(body && { "content-type": "application/json" }) }
    const response = await auth.handler(
      new Request(`${origin}/api/auth${url}`, { method, headers, body: body && JSON.stringify(body) })
    )
    const cookies = Object.fromEntries(
      response.headers.getSetCookie().map((line) => line.split(";")[0].split(/=(.*)/s).slice(0, 2))
    )
    return { status: response.status, cookies, to: response.headers.get("location"), body: await response.text() }
  }

  const methods = {
    getSession: (cookie) => auth.api.getSession({ headers: new Headers({ cookie }) }),
    listSessions: (cookie) => auth.api.listSessions({ headers: new Headers({ cookie }) }),
    async revokeSession(cookie, token) {
      return auth.api.revokeSession({ headers: new Headers({ cookie }), body: { token } })
    },
    signOut: (cookie) => request("POST", "/sign-out", cookie, {}),
    signUp: (name, email, password) => request("POST", "/sign-up/email", "", { name, email, password }),
    updateUser: (cookie, changes) => request("POST", "/update-user", cookie, changes),
    async askForLink(email) {
      await request("POST", "/sign-in/magic-link", "", { email })
      return sent.pop()?.token
    },
    followLink: (token) => request("GET", `/magic-link/verify?token=${token}&callbackURL=/`),
    // What its own migrations would make, and did.
    async migrations() {
      const { toBeCreated, toBeAdded, runMigrations } = await getMigrations(auth.options)
      await runMigrations()
      return [...toBeCreated, ...toBeAdded].map((each) => each.table)
    },
  }
  const { internalAdapter } = await auth.$context
  return {
    methods: {
      ...methods,
      // For the bridge's storm, which speaks as Auth.js's adapters do.
      createSession: ({ userId, sessionToken, expires }) =>
        internalAdapter.createSession(userId, false, { token: sessionToken, expiresAt: expires }, true),
      updateSession: ({ sessionToken, expires }) =>
        internalAdapter.updateSession(sessionToken, { expiresAt: expires }),
      getSessionAndUser: (sessionToken) => internalAdapter.findSession(sessionToken),
      deleteSession: (sessionToken) => internalAdapter.deleteSession(sessionToken),
      linkAccount: (account) => internalAdapter.linkAccount(account),
    },
    close: () => database.close(),
  }
}
