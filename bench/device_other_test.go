package bench

// deviceRungs need a TUN device.
var deviceRungs []rung
