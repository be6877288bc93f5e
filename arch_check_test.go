package weft_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

type (
	layer struct {
		dir string
		may []string
		why string
	}
	pureRow struct {
		dir  string
		why  string
		uses names
	}
	// names are the only names used of an import, by its path.
	names map[string][]string

	ban struct {
		pattern string
		instead string
	}
	restriction struct {
		pattern string
		only    []string
		why     string
	}
	rule struct {
		name  string
		check func([]*pkg) []string
	}
)

// rules are applied one by one; each returns its violations as sentences, in the order of the source.
var rules = []rule{
	{"layers", checkLayers},
	{"pure packages", checkPure},
	{"restricted imports", checkRestricted},
	{"etcd key literals", checkKeyLiterals},
	{"package comments", checkComments},
	{"package names", checkNames},
	{"no init functions", checkInit},
	{"no mutable package variables", checkVariables},
}

// pkg is the Go files of one folder, external tests included.
type pkg struct {
	dir   string // relative to the module's root; "." is the root
	name  string // without _test
	files []file
	info  *types.Info // identifiers resolved within the package; nothing is known of imported ones but their package
}

type file struct {
	*ast.File
	path      string
	pos       func(ast.Node) string // "path:line"
	test      bool
	generated bool
}

// load parses the module's Go files, by folder. It skips what the go command skips: hidden folders, testdata, vendor
// and nested modules.
func load(root fs.FS) ([]*pkg, error) {
	byDir := map[string]*pkg{}
	fset := token.NewFileSet()
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			return skipDir(root, name)
		case path.Ext(name) != ".go":
			return nil
		}
		f, err := parse(root, fset, name)
		if err != nil {
			return err
		}
		dir := path.Dir(name)
		if byDir[dir] == nil {
			byDir[dir] = &pkg{dir: dir}
		}
		byDir[dir].files = append(byDir[dir].files, f)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading the module's source: %w", err)
	}
	var pkgs []*pkg
	for _, dir := range slices.Sorted(maps.Keys(byDir)) {
		p := byDir[dir]
		p.name = strings.TrimSuffix(p.files[0].Name.Name, "_test")
		p.info = resolve(fset, p)
		pkgs = append(pkgs, p)
	}
	return pkgs, nil
}

func skipDir(root fs.FS, name string) error {
	base := path.Base(name)
	if name == "." {
		return nil
	}
	if base[0] == '.' || base[0] == '_' || base == "testdata" || base == "vendor" || base == "bin" {
		return fs.SkipDir
	}
	if _, err := fs.Stat(root, path.Join(name, "go.mod")); err == nil {
		return fs.SkipDir
	}
	return nil
}

func parse(root fs.FS, fset *token.FileSet, name string) (file, error) {
	text, err := fs.ReadFile(root, name)
	if err != nil {
		return file{}, err
	}
	f, err := parser.ParseFile(fset, name, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return file{}, err
	}
	pos := func(n ast.Node) string { return fmt.Sprintf("%s:%d", name, fset.Position(n.Pos()).Line) }
	return file{f, name, pos, strings.HasSuffix(name, "_test.go"), ast.IsGenerated(f)}, nil
}

// resolve finds what each identifier refers to, so that a local variable called time is not taken for the package.
// It needs no build: imports are empty packages, and the errors which follow from that mean nothing.
func resolve(fset *token.FileSet, p *pkg) *types.Info {
	info := &types.Info{Uses: map[*ast.Ident]types.Object{}, Defs: map[*ast.Ident]types.Object{}}
	var files []*ast.File
	for _, f := range p.files {
		if f.Name.Name == p.name {
			files = append(files, f.File)
		}
	}
	conf := types.Config{Importer: emptyImporter{}, Error: func(error) {}}
	_, _ = conf.Check(p.dir, fset, files, info)
	return info
}

type emptyImporter struct{}

var majorVersion = regexp.MustCompile(`/v[0-9]+$`)

func (emptyImporter) Import(p string) (*types.Package, error) {
	imported := types.NewPackage(p, path.Base(majorVersion.ReplaceAllString(p, "")))
	imported.MarkComplete()
	return imported, nil
}

func matches(pattern, p string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "..."); ok {
		return strings.HasPrefix(p+"/", prefix)
	}
	return p == pattern
}

func matchesAny(patterns []string, p string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool { return matches(pattern, p) })
}

// imports are the file's imports by path, with their position.
func (f file) imports() map[string]ast.Node {
	all := map[string]ast.Node{}
	for _, spec := range f.Imports {
		if p, err := strconv.Unquote(spec.Path.Value); err == nil {
			all[p] = spec
		}
	}
	return all
}

// eachImport calls do with every import of hand-written files, in order.
func (p *pkg) eachImport(tests bool, do func(f file, imported string, at string)) {
	for _, f := range p.files {
		if f.generated || f.test && !tests {
			continue
		}
		all := f.imports()
		for _, imported := range slices.Sorted(maps.Keys(all)) {
			do(f, imported, f.pos(all[imported]))
		}
	}
}

// own returns the folder of a package of this module.
func own(imported string) (string, bool) {
	if imported == module {
		return ".", true
	}
	return strings.CutPrefix(imported, module+"/")
}

func checkLayers(pkgs []*pkg) (found []string) {
	for _, p := range pkgs {
		i := slices.IndexFunc(layers, func(l layer) bool { return matches(l.dir, p.dir) })
		if i < 0 {
			found = append(found, fmt.Sprintf("%s belongs to no layer: move it below one of the folders in layers", p.dir))
			continue
		}
		p.eachImport(true, func(_ file, imported, at string) {
			if dir, ok := own(imported); ok && !matchesAny(layers[i].may, dir) {
				found = append(found, fmt.Sprintf("%s: %s imports %s: %s; %s may import %s", at, p.dir, dir, layers[i].why,
					layers[i].dir, cmpOr(strings.Join(layers[i].may, ", "), "nothing of the module")))
			}
		})
	}
	return found
}

func cmpOr(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func pureRowOf(dir string) (pureRow, bool) {
	i := slices.IndexFunc(pure, func(r pureRow) bool { return matches(r.dir, dir) })
	if i < 0 {
		return pureRow{}, false
	}
	return pure[i], true
}

func checkPure(pkgs []*pkg) (found []string) {
	generated := map[string]bool{}
	for _, p := range pkgs {
		generated[p.dir] = !slices.ContainsFunc(p.files, func(f file) bool { return !f.generated })
	}
	for _, p := range pkgs {
		row, ok := pureRowOf(p.dir)
		if !ok || generated[p.dir] {
			continue
		}
		p.eachImport(false, func(_ file, imported, at string) {
			if why := impureImport(row, imported, generated); why != "" {
				found = append(found, fmt.Sprintf("%s: %s imports %s: %s (%s is pure: %s)", at, p.dir, short(imported), why, p.dir, row.why))
			}
		})
		found = append(found, impureCode(p, row)...)
	}
	return found
}

func short(imported string) string {
	if dir, ok := own(imported); ok {
		return dir
	}
	return imported
}

// impureImport says why a pure package may not import it, or "".
func impureImport(row pureRow, imported string, generated map[string]bool) string {
	if row.uses[imported] != nil {
		return "" // impureName looks at each use
	}
	if dir, ok := own(imported); ok {
		if _, ok := pureRowOf(dir); ok || generated[dir] {
			return ""
		}
		return "purity is transitive; move what is needed to a package of the table pure, or add this one or the values it needs of it"
	}
	i := slices.IndexFunc(pureImports, func(b ban) bool { return matches(b.pattern, imported) })
	if i < 0 {
		return ""
	}
	return pureImports[i].instead
}

// impureCode finds goroutines and calls with hidden inputs or effects.
func impureCode(p *pkg, row pureRow) (found []string) {
	for _, f := range p.files {
		if f.test || f.generated {
			continue
		}
		ast.Inspect(f.File, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt:
				found = append(found, fmt.Sprintf("%s: %s starts a goroutine: pure packages have none; the caller decides what runs at once", f.pos(n), p.dir))
			case *ast.SelectorExpr:
				if why := impureName(row, p.imported(n.X), n.Sel.Name); why != "" {
					found = append(found, fmt.Sprintf("%s: %s uses %s", f.pos(n), p.dir, why))
				}
			}
			return true
		})
	}
	return found
}

// imported returns the path of the package that x names, or "".
func (p *pkg) imported(x ast.Expr) string {
	if id, ok := x.(*ast.Ident); ok {
		if name, ok := p.info.Uses[id].(*types.PkgName); ok {
			return name.Imported().Path()
		}
	}
	return ""
}

// impureName says what is wrong with a name of an imported package, or "".
func impureName(row pureRow, from, name string) string {
	switch {
	case slices.Contains(pureCalls[from], name):
		return from + "." + name + ": pure packages have neither clock nor terminal; take the value as an argument, return the text"
	case (from == "math/rand" || from == "math/rand/v2") && !slices.Contains(randAllowed, name):
		return from + "." + name + ": the global source makes results unrepeatable; take a *rand.Rand as an argument"
	case row.uses[from] != nil && !slices.Contains(row.uses[from], name):
		return short(from) + "." + name + ": pure packages take only values of a package with effects, here " + strings.Join(row.uses[from], ", ")
	}
	return ""
}

func checkRestricted(pkgs []*pkg) (found []string) {
	for _, p := range pkgs {
		p.eachImport(false, func(_ file, imported, at string) {
			for _, r := range restricted {
				if matches(r.pattern, imported) && !matchesAny(r.only, p.dir) {
					found = append(found, fmt.Sprintf("%s: %s imports %s: %s; it belongs in %s", at, p.dir, imported, r.why, strings.Join(r.only, ", ")))
				}
			}
		})
	}
	return found
}

func checkKeyLiterals(pkgs []*pkg) (found []string) {
	root := "/" + path.Base(module)
	for _, p := range pkgs {
		if p.dir == keyHome || p.dir == "." {
			continue
		}
		for _, f := range p.files {
			ast.Inspect(f.File, func(n ast.Node) bool {
				lit, ok := n.(*ast.BasicLit)
				if !ok || lit.Kind != token.STRING {
					return true
				}
				if s, err := strconv.Unquote(lit.Value); err == nil && (s == root || strings.HasPrefix(s, root+"/")) {
					found = append(found, fmt.Sprintf("%s: etcd key %s: key literals occur only in %s; call a function of it", f.pos(lit), lit.Value, keyHome))
				}
				return true
			})
		}
	}
	return found
}

var sentence = regexp.MustCompile(`(?s)^\S+(\s+\S+){5,}.*\.`)

// checkComments wants one comment of at least a sentence per package: what it is for and what it is not. Only the first
// half can be checked.
func checkComments(pkgs []*pkg) (found []string) {
	for _, p := range pkgs {
		var texts []string
		handWritten := false
		for _, f := range p.files {
			handWritten = handWritten || !f.generated
			if f.Doc != nil && !f.generated {
				texts = append(texts, f.Doc.Text())
			}
		}
		text := strings.Join(texts, "\n")
		switch {
		case !handWritten:
		case !sentence.MatchString(text):
			found = append(found, fmt.Sprintf("%s has no package comment of a sentence or more: say what the package is for and what it is not", p.dir))
		case len(texts) > 1:
			found = append(found, fmt.Sprintf("%s has %d package comments: keep one", p.dir, len(texts)))
		case p.name != "main" && !strings.HasPrefix(text, "Package "+p.name):
			found = append(found, fmt.Sprintf("%s: the package comment does not begin with \"Package %s\"", p.dir, p.name))
		}
	}
	return found
}

func checkNames(pkgs []*pkg) (found []string) {
	for _, p := range pkgs {
		for _, name := range append(strings.Split(p.dir, "/"), p.name) {
			if slices.Contains(badNames, name) {
				found = append(found, fmt.Sprintf("%s: a package called %s gathers what has no home: name it for the one thing it does", p.dir, name))
				break
			}
		}
	}
	return found
}

func checkInit(pkgs []*pkg) (found []string) {
	for _, p := range pkgs {
		for _, f := range p.files {
			for _, d := range f.Decls {
				fn, ok := d.(*ast.FuncDecl)
				if ok && fn.Recv == nil && fn.Name.Name == "init" && !f.generated {
					found = append(found, fmt.Sprintf("%s: func init: nothing happens at import; make a constructor, or a table where it is used", f.pos(fn)))
				}
			}
		}
	}
	return found
}

// checkVariables looks at every package-level variable of hand-written code but main's and tests'.
func checkVariables(pkgs []*pkg) (found []string) {
	for _, p := range pkgs {
		if p.name == "main" {
			continue
		}
		written := p.written()
		for _, f := range p.files {
			if f.test || f.generated {
				continue
			}
			for id, value := range packageVars(f) {
				if variables[p.dir+"."+id.Name] != "" {
					continue
				}
				if why := p.mutable(id, value, written); why != "" {
					found = append(found, fmt.Sprintf("%s: variable %s %s: keep state in a value that its user makes, or give it a row in variables with a reason", f.pos(id), id.Name, why))
				}
			}
		}
	}
	slices.Sort(found)
	return found
}

// packageVars returns the file's package-level variables with their initial values, nil where there is none. Embedded
// files and blank variables (assertions that a type has an interface) are left out.
func packageVars(f file) map[*ast.Ident]ast.Expr {
	all := map[*ast.Ident]ast.Expr{}
	for _, d := range f.Decls {
		gen, ok := d.(*ast.GenDecl)
		if !ok || gen.Tok != token.VAR || embeds(gen.Doc) {
			continue
		}
		for _, s := range gen.Specs {
			spec, ok := s.(*ast.ValueSpec)
			if !ok || embeds(spec.Doc) {
				continue
			}
			for i, id := range spec.Names {
				switch {
				case id.Name == "_":
				case len(spec.Values) == len(spec.Names):
					all[id] = spec.Values[i]
				case len(spec.Values) > 0:
					all[id] = spec.Values[0]
				default:
					all[id] = nil
				}
			}
		}
	}
	return all
}

func embeds(doc *ast.CommentGroup) bool {
	return doc != nil && slices.ContainsFunc(doc.List, func(c *ast.Comment) bool { return strings.HasPrefix(c.Text, "//go:embed ") })
}

// constantCalls make values that can't be changed, or that hide no state.
var constantCalls = []string{
	"errors.New", "fmt.Errorf", "regexp.MustCompile", "strings.NewReplacer",
	"net/netip.MustParseAddr", "net/netip.MustParsePrefix", "net/netip.AddrFrom4", "net/netip.AddrFrom16", "net/netip.PrefixFrom",
}

// mutable says what makes a variable changeable, or "".
func (p *pkg) mutable(id *ast.Ident, value ast.Expr, written map[types.Object]string) string {
	if at, ok := written[p.info.Defs[id]]; ok {
		return "is changed at " + at
	}
	constant := p.constantCall(value)
	switch v := value.(type) {
	case nil:
		return "has no initial value, so something sets it later"
	case *ast.CallExpr:
		if !constant {
			return "is made by a call that may return shared state"
		}
	case *ast.FuncLit:
		return "is a function that can be replaced"
	case *ast.UnaryExpr:
		if v.Op == token.AND {
			return "is a pointer"
		}
	case *ast.CompositeLit:
		if sel, ok := v.Type.(*ast.SelectorExpr); ok && strings.HasPrefix(p.imported(sel.X), "sync") {
			return "is made to be changed"
		}
	}
	if id.IsExported() && !constant {
		return "is exported, so any package can change it"
	}
	return ""
}

func (p *pkg) constantCall(value ast.Expr) bool {
	call, ok := value.(*ast.CallExpr)
	if !ok {
		return false
	}
	sel, ok := call.Fun.(*ast.SelectorExpr)
	return ok && slices.Contains(constantCalls, p.imported(sel.X)+"."+sel.Sel.Name)
}

// written returns where each object of the package is assigned to, in part or whole, or has its address taken.
func (p *pkg) written() map[types.Object]string {
	all := map[types.Object]string{}
	for _, f := range p.files {
		add := func(x ast.Expr) {
			if id := base(x); id != nil && p.info.Uses[id] != nil {
				all[p.info.Uses[id]] = f.pos(id)
			}
		}
		ast.Inspect(f.File, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.AssignStmt:
				for _, x := range n.Lhs {
					add(x)
				}
			case *ast.RangeStmt:
				add(n.Key)
				add(n.Value)
			case *ast.IncDecStmt:
				add(n.X)
			case *ast.UnaryExpr:
				if n.Op == token.AND {
					add(n.X)
				}
			case *ast.CallExpr:
				if id, ok := n.Fun.(*ast.Ident); ok && slices.Contains([]string{"clear", "close", "copy", "delete"}, id.Name) && len(n.Args) > 0 {
					add(n.Args[0])
				}
			}
			return true
		})
	}
	return all
}

// base is the variable at the root of x.f[i] and the like, or nil.
func base(x ast.Expr) *ast.Ident {
	for {
		switch e := x.(type) {
		case *ast.Ident:
			return e
		case *ast.SelectorExpr:
			x = e.X
		case *ast.IndexExpr:
			x = e.X
		case *ast.SliceExpr:
			x = e.X
		case *ast.StarExpr:
			x = e.X
		case *ast.ParenExpr:
			x = e.X
		default:
			return nil
		}
	}
}

// TestCheckerFinds shows that each rule fails on what it forbids and passes on the nearest thing that is allowed.
func TestCheckerFinds(t *testing.T) {
	for _, c := range checkerCases {
		t.Run(c.name, func(t *testing.T) {
			tree := fstest.MapFS{}
			for name, text := range c.files {
				tree[name] = &fstest.MapFile{Data: []byte(text)}
			}
			pkgs, err := load(tree)
			if err != nil {
				t.Fatal(err)
			}
			got := c.check(pkgs)
			for i := range got {
				got[i], _, _ = strings.Cut(got[i], ": pure packages") // the start says what, where and which
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("violations (-want +got):\n%s", diff)
			}
		})
	}
}

func TestUnparsableSourceIsAnError(t *testing.T) {
	_, err := load(fstest.MapFS{"ipam/a.go": {Data: []byte("package ipam\nfunc {")}})
	if err == nil || !strings.Contains(err.Error(), "ipam/a.go") {
		t.Errorf("load = %v, want an error that names ipam/a.go", err)
	}
}

type checkerCase struct {
	name  string
	check func([]*pkg) []string
	files map[string]string
	want  []string
}

var checkerCases = []checkerCase{
	{
		"agent and controller do not import each other, in tests either", checkLayers,
		map[string]string{
			"agent/a/a.go":      "package a\nimport _ \"github.com/weft-sdn/weft/controller\"",
			"agent/a/a_test.go": "package a_test\nimport _ \"github.com/weft-sdn/weft/ipam\"",
			"controller/c.go":   "package controller\nimport _ \"github.com/weft-sdn/weft/ipam\"",
			"cmd/weft/main.go":  "package main\nimport _ \"github.com/weft-sdn/weft/controller\"",
		},
		[]string{
			"agent/a/a.go:2: agent/a imports controller: agents derive from what is stored; they work with every controller down; agent/... may import agent/..., proto/...",
			"agent/a/a_test.go:2: agent/a imports ipam: agents derive from what is stored; they work with every controller down; agent/... may import agent/..., proto/...",
		},
	},
	{
		"a folder without a row is no layer", checkLayers,
		map[string]string{"engine/e.go": "package engine", "tools/go.mod": "", "tools/t.go": "package tools", "e2e/testdata/x.go": "package x"},
		[]string{"engine belongs to no layer: move it below one of the folders in layers"},
	},
	{
		"pure packages do no I/O", checkPure,
		map[string]string{
			"agent/plan/p.go":      "package plan\nimport (\n\"os\"\n\"net/netip\"\n\"time\"\n)\nvar _ = os.Args\nvar _ netip.Addr\nvar _ time.Duration",
			"agent/plan/p_test.go": "package plan\nimport _ \"os/exec\"",
			"agent/ovs/o.go":       "package ovs\nimport _ \"os\"",
		},
		[]string{"agent/plan/p.go:3: agent/plan imports os"},
	},
	{
		"purity is transitive, but generated messages are fine", checkPure,
		map[string]string{
			"ipam/i.go":             "package ipam\nimport (\n_ \"github.com/weft-sdn/weft/proto/store\"\n_ \"github.com/weft-sdn/weft/proto/txn\"\n_ \"github.com/weft-sdn/weft/proto/weft/v1\"\n)",
			"proto/store/s.go":      "package store",
			"proto/weft/v1/x.pb.go": "// Code generated by protoc-gen-go. DO NOT EDIT.\n\npackage weftv1\nimport _ \"sync\"",
		},
		[]string{
			"ipam/i.go:3: ipam imports proto/store: purity is transitive; move what is needed to a package of the table pure, or add this one or the values it needs of it " +
				"(ipam is pure: allocation is proven by property tests over values)",
		},
	},
	{
		"pure packages have no clock, chance or goroutine", checkPure,
		map[string]string{"scheduler/s.go": `package scheduler
import (
	"math/rand/v2"
	"time"
)
type clock struct{}
func (clock) Now() int { return 0 }
func f(r *rand.Rand) {
	go f(nil)
	_ = time.Now()
	_ = rand.IntN(3)
	_ = rand.New(rand.NewPCG(1, 2))
	time := clock{}
	_ = time.Now()
}`},
		[]string{
			"scheduler/s.go:9: scheduler starts a goroutine",
			"scheduler/s.go:10: scheduler uses time.Now",
			"scheduler/s.go:11: scheduler uses math/rand/v2.IntN: the global source makes results unrepeatable; take a *rand.Rand as an argument",
		},
	},
	{
		"net is for MAC addresses only, where the row says so", checkPure,
		map[string]string{
			"ipam/i.go":     "package ipam\nimport \"net\"\nvar a net.HardwareAddr\nvar b net.Conn",
			"segments/s.go": "package segments\nimport \"net\"\nvar a net.HardwareAddr",
		},
		[]string{
			"ipam/i.go:4: ipam uses net.Conn",
			"segments/s.go:2: segments imports net",
		},
	},
	{
		"of a package with effects the values are fine, where the row names them", checkPure,
		map[string]string{
			"agent/view/v.go":   "package view\nimport \"github.com/weft-sdn/weft/proto/mirror\"\nvar a mirror.Batch\nvar b mirror.Mirror",
			"proto/mirror/m.go": "package mirror\nimport _ \"context\"",
		},
		[]string{"agent/view/v.go:4: agent/view uses proto/mirror.Mirror"},
	},
	{
		"only drivers touch the host", checkRestricted,
		map[string]string{
			"agent/loop.go":       "package agent\nimport _ \"os/exec\"",
			"agent/loop_test.go":  "package agent\nimport _ \"os/exec\"",
			"agent/dhcp/d.go":     "package dhcp\nimport _ \"os/exec\"",
			"agent/iptables/n.go": "package iptables\nimport _ \"github.com/ovn-org/libovsdb/client\"",
		},
		[]string{
			"agent/loop.go:2: agent imports os/exec: only drivers start processes; it belongs in agent/conntrack, agent/dhcp, agent/garp, agent/hybrid/host, agent/ipset, agent/iptables, " +
				"agent/metadata, agent/metadata/proxy, agent/metadata/wire, agent/neighbour, agent/netns, agent/openflow, agent/ovs, agent/ovs/ovstest, cmd/weft-lab/..., e2e/..., proto/store/storetest",
			"agent/iptables/n.go:2: agent/iptables imports github.com/ovn-org/libovsdb/client: one package hides the OVSDB library; it belongs in agent/ovs/..., e2e/...",
		},
	},
	{
		"etcd keys are written down in one package", checkKeyLiterals,
		map[string]string{
			"proto/keys/k.go": "package keys\nconst Root = \"/weft/v1/\"",
			"agent/a.go":      "package agent\nconst (\nk = \"/weft/v1/port\"\nd = \"/var/lib/weft/dhcp\"\n)",
		},
		[]string{`agent/a.go:3: etcd key "/weft/v1/port": key literals occur only in proto/keys; call a function of it`},
	},
	{
		"packages say what they are for", checkComments,
		map[string]string{
			"ipam/a.go":      "// Package ipam hands out the addresses of a subnet.\npackage ipam",
			"segments/a.go":  "// Package segments.\npackage segments",
			"scheduler/a.go": "// Chooses a network node for each router, purely.\npackage scheduler",
			"e2e/a_test.go":  "package e2e_test",
			"cmd/weft/a.go":  "// Weft is the command line of the API and nothing else.\npackage main",
			"agent/a.go":     "// Package agent makes a node what it should be.\npackage agent",
			"agent/b.go":     "// Package agent makes a node what it should be.\npackage agent",
		},
		[]string{
			"agent has 2 package comments: keep one",
			"e2e has no package comment of a sentence or more: say what the package is for and what it is not",
			`scheduler: the package comment does not begin with "Package scheduler"`,
			"segments has no package comment of a sentence or more: say what the package is for and what it is not",
		},
	},
	{
		"packages are named for what they do", checkNames,
		map[string]string{"agent/util/a.go": "package util", "agent/netns/a.go": "package netns"},
		[]string{"agent/util: a package called util gathers what has no home: name it for the one thing it does"},
	},
	{
		"nothing happens at import", checkInit,
		map[string]string{
			"ipam/a.go":             "package ipam\nfunc init() {}\ntype t int\nfunc (t) init() {}",
			"proto/weft/v1/x.pb.go": "// Code generated by x. DO NOT EDIT.\n\npackage weftv1\nfunc init() {}",
		},
		[]string{"ipam/a.go:2: func init: nothing happens at import; make a constructor, or a table where it is used"},
	},
	{
		"package variables do not change", checkVariables,
		map[string]string{
			"agent/a.go": `package agent
import ("errors"; "regexp"; "sync")
var ErrGone = errors.New("gone")
var name = regexp.MustCompile("a")
var table = map[string]int{"a": 1}
var Table = []int{1}
var cache = map[string]int{}
var count int
var lock = sync.Mutex{}
var shared = &lock
var now = func() int { return 0 }
var dial = make(chan int)
var swapped = 1
func f() { cache["a"] = 2; table := 3; table++; _ = table }`,
			"agent/a_test.go":  "package agent\nvar inTest int\nfunc g() { swapped = 2 }",
			"cmd/weft/main.go": "package main\nvar version string",
		},
		mutableWant(
			"10: variable shared is a pointer", "11: variable now is a function that can be replaced",
			"12: variable dial is made by a call that may return shared state", "13: variable swapped is changed at agent/a_test.go:3",
			"6: variable Table is exported, so any package can change it", "7: variable cache is changed at agent/a.go:14",
			"8: variable count has no initial value, so something sets it later", "9: variable lock is changed at agent/a.go:10",
		),
	},
}

func mutableWant(lines ...string) (all []string) {
	for _, l := range lines {
		all = append(all, "agent/a.go:"+l+": keep state in a value that its user makes, or give it a row in variables with a reason")
	}
	return all
}
