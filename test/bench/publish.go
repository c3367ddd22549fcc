package bench

import (
	"fmt"
	"os"
	"strings"
)

// endMark closes what a program has written into a document.
const endMark = "<!-- end -->"

// Publish puts text into the document path, in the place of what stands between the line
// "<!-- name -->" and the next "<!-- end -->".
func Publish(path, name, text string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	begin := "<!-- " + name + " -->\n"
	before, rest, ok := strings.Cut(string(data), begin)
	_, after, ok2 := strings.Cut(rest, endMark)
	if !ok || !ok2 {
		return fmt.Errorf("%s: no line %q with a line %q after it, between which the figures go", path, strings.TrimSpace(begin), endMark)
	}
	return os.WriteFile(path, []byte(before+begin+"\n"+strings.TrimSpace(text)+"\n\n"+endMark+after), 0o644)
}
