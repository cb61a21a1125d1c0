// node fetch.mjs {ACTION URL}...: does each with fetch, or with node:http and node:https for those that end in -http, and
// prints what came of it.
import http from 'node:http'
import https from 'node:https'

const body = 'x'.repeat(1 << 20)

async function length(response) {
  let n = 0
  for await (const chunk of response.body) n += chunk.length
  return `${n} bytes`
}

async function events(response, url) {
  const seen = []
  let text = ''
  for await (const chunk of response.body) {
    text += new TextDecoder().decode(chunk)
    for (let end; (end = text.indexOf('\n\n')) >= 0; text = text.slice(end + 2)) {
      seen.push(text.slice('data: '.length, end))
      if (seen.length === 1) await (await fetch(url.replace('/events', '/next'))).text()
    }
  }
  return seen.join(' ')
}

function request(url, method, sent) {
  return new Promise((resolve, reject) => {
    const client = url.startsWith('https:') ? https : http
    const outgoing = client.request(url, { method }, incoming => {
      let text = ''
      incoming.on('data', chunk => { text += chunk }).on('end', () => resolve(`${incoming.statusCode} ${text}`)).on('error', reject)
    })
    outgoing.on('error', reject)
    outgoing.end(sent)
  })
}

const actions = {
  get: async url => { const r = await fetch(url); return `${r.status} ${await r.text()}` },
  post: async url => { const r = await fetch(url, { method: 'POST', body }); return `${r.status} ${await r.text()}` },
  download: async url => { const r = await fetch(url); return `${r.status} ${await length(r)}` },
  events: async url => { const r = await fetch(url); return `${r.status} ${await events(r, url)}` },
  'get-http': url => request(url, 'GET'),
  'post-http': url => request(url, 'POST', body),
}

for (let i = 2; i < process.argv.length; i += 2) {
  const [action, url] = process.argv.slice(i, i + 2)
  let outcome
  try {
    outcome = await actions[action](url)
  } catch (error) {
    const why = error.cause ?? error
    outcome = `${error.name} ${error.message} ${why.code ?? ''} ${why.message}`
  }
  console.log(`${action} ${url}: ${outcome}`.trim())
}
