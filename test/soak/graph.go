package main

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// A graph is curves over the rounds, which all have one value for each.
type graph struct {
	title  string
	curves []curve
}

type curve struct {
	name string
	y    []float64
}

// Sizes in pixels; the right margin has the names.
const (
	graphWidth, graphHeight      = 900, 320
	leftMargin, rightMargin      = 60, 200
	topMargin, bottomMargin      = 30, 30
	plotWidth, plotHeight        = graphWidth - leftMargin - rightMargin, graphHeight - topMargin - bottomMargin
	gridLines                    = 4
	textStyle, gridStyle, noFill = `font-family="sans-serif" font-size="12" fill="#444"`, `stroke="#ddd"`, `fill="none"`
)

var colours = []string{"#1f6feb", "#d1242f", "#1a7f37", "#9a6700"}

// svg draws it; the axis of values begins at 0.
func (g graph) svg() string {
	most, rounds := 1.0, 1
	for _, c := range g.curves {
		for _, y := range c.y {
			most = max(most, y)
		}
		rounds = max(rounds, len(c.y))
	}
	most = roundUp(most)
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d"><rect width="100%%" height="100%%" fill="#fff"/>`+"\n", graphWidth, graphHeight)
	fmt.Fprintf(&b, `<text x="%d" y="18" %s>%s</text>`+"\n", leftMargin, textStyle, html.EscapeString(g.title))
	for i := range gridLines + 1 {
		y := topMargin + plotHeight*i/gridLines
		fmt.Fprintf(&b, `<path d="M%d %dh%d" %s/><text x="%d" y="%d" text-anchor="end" %s>%.4g</text>`+"\n",
			leftMargin, y, plotWidth, gridStyle, leftMargin-6, y+4, textStyle, most*float64(gridLines-i)/gridLines)
	}
	fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end" %s>round %d</text>`+"\n", leftMargin+plotWidth, graphHeight-8, textStyle, rounds)
	for i, c := range g.curves {
		colour := colours[i%len(colours)]
		var points []string
		for n, y := range c.y {
			x := leftMargin + plotWidth*float64(n)/float64(max(1, rounds-1))
			points = append(points, fmt.Sprintf("%.1f,%.1f", x, topMargin+plotHeight*(1-y/most)))
		}
		fmt.Fprintf(&b, `<polyline points="%s" %s stroke="%s" stroke-width="1.5"/><text x="%d" y="%d" %s><tspan fill="%s">● </tspan>%s</text>`+"\n",
			strings.Join(points, " "), noFill, colour, leftMargin+plotWidth+12, topMargin+14+20*i, textStyle, colour, html.EscapeString(c.name))
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// roundUp is the next of 1, 2, 5, 10, 20, 50 and so on.
func roundUp(v float64) float64 {
	scale := math.Pow(10, math.Floor(math.Log10(v)))
	for _, f := range []float64{1, 2, 5, 10} {
		if f*scale >= v {
			return f * scale
		}
	}
	return 10 * scale
}
