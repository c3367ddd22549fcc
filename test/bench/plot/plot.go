// Package plot draws curves over a common axis as an SVG. It knows nothing of what they mean.
package plot

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// A Plot is curves over the values X, which ascend.
type Plot struct {
	Title  string
	Axis   string // what X is
	X      []float64
	Curves []Curve
	Log    bool // values are drawn by their logarithm, for curves that are far apart
}

// A Curve has a value for each of X; where it is 0 or missing there is none.
type Curve struct {
	Name   string
	Y      []float64
	Dashed bool
}

// Sizes in pixels; the right margin has the names.
const (
	width, height           = 900, 340
	left, right             = 70, 260
	top, bottom             = 30, 46
	plotWidth, plotHeight   = width - left - right, height - top - bottom
	gridLines               = 4
	text, grid              = `font-family="sans-serif" font-size="12" fill="#444"`, `stroke="#ddd"`
	lineGap, tickGap, space = 18, 16, 12
)

// colours go with pairs of curves: the solid and the dashed one of a pair have the same.
func colours() []string { return []string{"#1f6feb", "#d1242f", "#1a7f37", "#9a6700", "#8250df"} }

// SVG is the picture.
func (p Plot) SVG() string {
	s := p.scale()
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d"><rect width="100%%" height="100%%" fill="#fff"/>`+"\n", width, height)
	fmt.Fprintf(&b, `<text x="%d" y="18" %s>%s</text>`+"\n", left, text, html.EscapeString(p.Title))
	for _, v := range s.ticks {
		fmt.Fprintf(&b, `<path d="M%d %.1fh%d" %s/><text x="%d" y="%.1f" text-anchor="end" %s>%.4g</text>`+"\n",
			left, s.y(v), plotWidth, grid, left-6, s.y(v)+4, text, v)
	}
	for _, x := range p.X {
		fmt.Fprintf(&b, `<text x="%.1f" y="%d" text-anchor="middle" %s>%.4g</text>`+"\n", s.x(x), top+plotHeight+tickGap, text, x)
	}
	fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="middle" %s>%s</text>`+"\n", left+plotWidth/2, height-8, text, html.EscapeString(p.Axis))
	solid := -1
	for i, c := range p.Curves {
		dash := ""
		if c.Dashed {
			dash = ` stroke-dasharray="5 4"`
		} else {
			solid++
		}
		colour := colours()[max(solid, 0)%len(colours())]
		fmt.Fprintf(&b, `<polyline points="%s" fill="none" stroke="%s" stroke-width="1.5"%s/>`+"\n", s.points(p.X, c.Y), colour, dash)
		at := top + lineGap*(i+1)
		fmt.Fprintf(&b, `<path d="M%d %dh24" stroke="%s" stroke-width="1.5"%s/><text x="%d" y="%d" %s>%s</text>`+"\n",
			left+plotWidth+space, at-4, colour, dash, left+plotWidth+space+30, at, text, html.EscapeString(c.Name))
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// A scale says where values are drawn.
type scale struct {
	least, most float64 // of the values' axis
	from, to    float64 // of X
	log         bool
	ticks       []float64
}

func (p Plot) scale() scale {
	s := scale{least: math.Inf(1), most: 0, log: p.Log, to: 1}
	for _, c := range p.Curves {
		for _, y := range c.Y {
			if y > 0 {
				s.least, s.most = min(s.least, y), max(s.most, y)
			}
		}
	}
	if len(p.X) > 0 {
		s.from, s.to = p.X[0], p.X[len(p.X)-1]
	}
	if s.most == 0 {
		s.least, s.most = 1, 1
	}
	if !p.Log {
		s.least, s.most = 0, roundUp(s.most)
		for i := range gridLines + 1 {
			s.ticks = append(s.ticks, s.most*float64(i)/gridLines)
		}
		return s
	}
	s.least, s.most = math.Pow(10, math.Floor(math.Log10(s.least))), math.Pow(10, math.Ceil(math.Log10(s.most)))
	if s.least == s.most {
		s.most *= 10
	}
	for v := s.least; v <= s.most*1.001; v *= 10 {
		s.ticks = append(s.ticks, v)
	}
	return s
}

func (s scale) x(v float64) float64 {
	if s.to <= s.from {
		return left + plotWidth/2
	}
	return left + plotWidth*(v-s.from)/(s.to-s.from)
}

func (s scale) y(v float64) float64 {
	share := v / s.most
	if s.log {
		share = math.Log(v/s.least) / math.Log(s.most/s.least)
	}
	return top + plotHeight*(1-share)
}

func (s scale) points(xs, ys []float64) string {
	var points []string
	for i, y := range ys {
		if i < len(xs) && y > 0 {
			points = append(points, fmt.Sprintf("%.1f,%.1f", s.x(xs[i]), s.y(y)))
		}
	}
	return strings.Join(points, " ")
}

// roundUp is the next of 1, 2, 5, 10, 20, 50 and so on.
func roundUp(v float64) float64 {
	unit := math.Pow(10, math.Floor(math.Log10(v)))
	for _, f := range []float64{1, 2, 5, 10} {
		if f*unit >= v {
			return f * unit
		}
	}
	return 10 * unit
}
