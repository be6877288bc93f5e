package weft_test

import (
	"go/ast"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
)

// testName is the name of a test or a fuzz target in a text.
var testName = regexp.MustCompile(`\b(Test|Fuzz)[A-Z]\w*`)

// testsOf are the names of the tests and fuzz targets of the module.
func testsOf(pkgs []*pkg) map[string]bool {
	out := map[string]bool{}
	for _, p := range pkgs {
		for _, f := range p.files {
			for _, d := range f.Decls {
				if fn, ok := d.(*ast.FuncDecl); ok && f.test && fn.Recv == nil {
					out[fn.Name.Name] = true
				}
			}
		}
	}
	return out
}

// missingTests are the places in documents that name a test which there is not.
func missingTests(root fs.FS, tests map[string]bool) (missing []string, err error) {
	err = fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			return skipDir(root, name)
		case path.Ext(name) != ".md":
			return nil
		}
		text, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		n := 0
		for line := range strings.Lines(string(text)) {
			n++
			for _, test := range testName.FindAllString(line, -1) {
				if !tests[test] {
					missing = append(missing, name+":"+strconv.Itoa(n)+": there is no "+test)
				}
			}
		}
		return nil
	})
	return missing, err
}

// TestTestsThatDocumentsNameExist keeps claims from outliving what shows them.
func TestTestsThatDocumentsNameExist(t *testing.T) {
	pkgs, err := load(os.DirFS("."))
	if err != nil {
		t.Fatal(err)
	}
	missing, err := missingTests(os.DirFS("."), testsOf(pkgs))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range missing {
		t.Error(m)
	}
}

func TestATestThatIsMissingIsFound(t *testing.T) {
	tree := fstest.MapFS{
		"a/a_test.go": {Data: []byte("package a\n\nfunc TestThere() {}\n\nfunc (x) TestMethod() {}\n\nfunc FuzzThere() {}\n")},
		"a/a.go":      {Data: []byte("package a\n\nfunc TestElsewhere() {}\n")},
		"docs/a.md":   {Data: []byte("`TestThere`, FuzzThere and Testing\nTestMethod, `TestElsewhere` | FuzzGone")},
	}
	pkgs, err := load(tree)
	if err != nil {
		t.Fatal(err)
	}
	got, err := missingTests(tree, testsOf(pkgs))
	want := []string{"docs/a.md:2: there is no TestMethod", "docs/a.md:2: there is no TestElsewhere", "docs/a.md:2: there is no FuzzGone"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("found %q, %v, want %q", got, err, want)
	}
}
