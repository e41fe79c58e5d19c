package main

import (
	"bytes"
	"encoding/binary"
	"image"
	"image/color"
	"image/png"
	"math"
)

// iconSize is the width and height of the icons in pixels. Panels scale them.
const iconSize = 32

// colors are told apart by people who see no red or green, too, since the shapes differ as well.
var colors = map[symbol]color.NRGBA{
	symbolOff:       {0x8a, 0x8a, 0x8a, 0xff},
	symbolBusy:      {0x3b, 0x7d, 0xd8, 0xff},
	symbolDTLS:      {0x2e, 0x9e, 0x4f, 0xff},
	symbolTLS:       {0x1f, 0x8a, 0x8a, 0xff},
	symbolWaiting:   {0xd9, 0x8e, 0x04, 0xff},
	symbolAttention: {0xc8, 0x32, 0x2b, 0xff},
}

// draw returns the picture of a symbol: the mouth of a pipe, which is closed, open, half open, or crossed by a mark.
func draw(s symbol) *image.NRGBA {
	img := image.NewNRGBA(image.Rect(0, 0, iconSize, iconSize))
	c := colors[s]
	for y := range iconSize {
		for x := range iconSize {
			// Each pixel is the mean of 4 × 4 points, which makes the edges smooth.
			hits := 0
			for i := range 16 {
				px := (float64(x) + (float64(i%4)+0.5)/4) - iconSize/2
				py := (float64(y) + (float64(i/4)+0.5)/4) - iconSize/2
				if inside(s, px, py) {
					hits++
				}
			}
			img.SetNRGBA(x, y, color.NRGBA{c.R, c.G, c.B, uint8(hits * 255 / 16)})
		}
	}
	return img
}

// inside reports whether a point, with the middle of the icon as origin, belongs to a symbol.
func inside(s symbol, x, y float64) bool {
	r := math.Hypot(x, y)
	if r > 15 {
		return false
	}
	ring := r >= 11.5
	switch s {
	case symbolDTLS:
		return ring || r <= 7.5 // what flows through
	case symbolTLS:
		return ring || r <= 7.5 && y > 0
	case symbolBusy:
		return ring || math.Abs(y) <= 2 && (math.Abs(x) <= 1.5 || math.Abs(math.Abs(x)-6) <= 1.5) // three dots
	case symbolWaiting:
		return ring && math.Abs(x) > 3 || math.Abs(x) <= 6 && math.Abs(x) >= 2.5 && math.Abs(y) <= 6 // two bars
	case symbolAttention:
		return ring || math.Abs(x) <= 2 && (y >= -8 && y <= 2 || y >= 4.5 && y <= 8) // an exclamation mark
	}
	return ring
}

// icon returns a symbol as a file that the tray of the system takes: an ICO on Windows, and a PNG elsewhere.
func icon(s symbol, system string) []byte {
	img := draw(s)
	var b bytes.Buffer
	if system != "windows" {
		// Neither the picture nor the writer gives a reason to fail.
		_ = png.Encode(&b, img)
		return b.Bytes()
	}
	// One picture: the directory, a BITMAPINFOHEADER whose height counts colours and mask, the rows from below with blue first,
	// and an empty mask, because the colours have transparency of their own.
	const mask = iconSize * 4
	le := binary.LittleEndian
	data := le.AppendUint16(nil, 0)
	data = le.AppendUint16(data, 1)
	data = le.AppendUint16(data, 1)
	data = append(data, iconSize, iconSize, 0, 0)
	data = le.AppendUint16(data, 1)
	data = le.AppendUint16(data, 32)
	data = le.AppendUint32(data, 40+iconSize*iconSize*4+mask)
	data = le.AppendUint32(data, 6+16)
	for _, v := range []uint32{40, iconSize, 2 * iconSize, 1 | 32<<16, 0, iconSize*iconSize*4 + mask, 0, 0, 0, 0} {
		data = le.AppendUint32(data, v)
	}
	for y := iconSize - 1; y >= 0; y-- {
		for x := range iconSize {
			c := img.NRGBAAt(x, y)
			data = append(data, c.B, c.G, c.R, c.A)
		}
	}
	return append(data, make([]byte, mask)...)
}
