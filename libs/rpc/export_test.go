package rpc

// Secure makes a connection that is open one to a peer.
var Secure = secure
