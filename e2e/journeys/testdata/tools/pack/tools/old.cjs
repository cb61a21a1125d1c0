// For a Node.js that doesn't look at proxy variables: `node --require old.cjs` has its fetch do so, with undici from npm.
const { EnvHttpProxyAgent, setGlobalDispatcher } = require('/opt/node/node_modules/undici')
setGlobalDispatcher(new EnvHttpProxyAgent())
