package arch

import (
	"fmt"
	"go/ast"
	"go/token"
)

// returnOrder: a return statement reads its variables before or after its calls, as the
// compiler likes (the Go specification, "Order of evaluation"). So none returns a variable
// beside a call that is given its address, or a field beside a method of what has it.
func returnOrder(s source) (bad []string) {
	for _, f := range s.files {
		if f.generated {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			ret, ok := n.(*ast.ReturnStmt)
			if !ok {
				return true
			}
			for _, result := range ret.Results {
				name, field := variable(result)
				for _, other := range ret.Results {
					if name != "" && other != result && mayChange(other, name, field) {
						bad = append(bad, fmt.Sprintf("%s: %s is returned beside a call that may change it: call first", f.at(result), name))
					}
				}
			}
			return true
		})
	}
	return bad
}

// variable is the variable that e is, or that it is a field of; "" for anything else.
func variable(e ast.Expr) (name string, field bool) {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name, false
	case *ast.SelectorExpr:
		if name, _ = variable(e.X); name != "" {
			return name, true
		}
	}
	return "", false
}

// mayChange tells whether a call in e is given the variable's address, or, for a field of
// it, is a method of it or of another field.
func mayChange(e ast.Expr, name string, field bool) (found bool) {
	ast.Inspect(e, func(n ast.Node) bool {
		if _, later := n.(*ast.FuncLit); later {
			return false
		}
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		if sel, ok := call.Fun.(*ast.SelectorExpr); ok && field {
			owner, _ := variable(sel.X)
			found = found || owner == name
		}
		for _, arg := range call.Args {
			if address, ok := arg.(*ast.UnaryExpr); ok && address.Op == token.AND {
				given, _ := variable(address.X)
				found = found || given == name
			}
		}
		return true
	})
	return found
}
