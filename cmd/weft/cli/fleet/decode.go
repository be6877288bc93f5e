package fleet

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strconv"
	"strings"

	goyaml "sigs.k8s.io/yaml/goyaml.v2"

	"sigs.k8s.io/yaml"
)

// Parse reads a fleet file: one YAML (or JSON) document. Every key must be known and every value of the right type;
// the error names each offender by its path, e.g. `networks[0].subnets[1].cdir: unknown key`.
func Parse(text []byte) (File, error) {
	var f File
	if err := oneDocument(text); err != nil {
		return f, err
	}
	raw, err := yaml.YAMLToJSONStrict(text)
	if err != nil {
		return f, fmt.Errorf("not valid YAML: %w", err)
	}
	var tree any
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber() // a float64 would round a large number instead of refusing it
	if err := d.Decode(&tree); err != nil {
		return f, fmt.Errorf("not valid YAML: %w", err)
	}
	if tree == nil {
		return f, nil
	}
	var dec decoder
	dec.value("", tree, reflect.ValueOf(&f).Elem())
	return f, errors.Join(dec.errs...)
}

// oneDocument refuses a stream of several documents, of which the parser would read the first alone.
func oneDocument(text []byte) error {
	d := goyaml.NewDecoder(bytes.NewReader(text))
	for n := 0; ; n++ {
		var doc any
		err := d.Decode(&doc)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("not valid YAML: %w", err)
		case n > 0:
			return errors.New("the file holds several YAML documents; put everything into one")
		}
	}
}

// decoder fills Go values from a tree of JSON values and keeps what is wrong.
type decoder struct{ errs []error }

func (d *decoder) addf(path, format string, args ...any) {
	if path == "" {
		path = "the file"
	}
	d.errs = append(d.errs, fmt.Errorf("%s: %s", path, fmt.Sprintf(format, args...)))
}

// shorthand is a type that can also be written as a string.
type shorthand interface{ fromString(s string) error }

func (d *decoder) value(path string, in any, out reflect.Value) {
	if in == nil {
		return // `key:` with nothing after it is as if the key were not there
	}
	if s, ok := in.(string); ok {
		if short, ok := out.Addr().Interface().(shorthand); ok {
			if err := short.fromString(s); err != nil {
				d.addf(path, "%s", err)
			}
			return
		}
	}
	switch out.Kind() {
	case reflect.Pointer:
		out.Set(reflect.New(out.Type().Elem()))
		d.value(path, in, out.Elem())
	case reflect.Struct:
		d.object(path, in, out)
	case reflect.Slice:
		d.list(path, in, out)
	case reflect.Map:
		d.words(path, in, out)
	default:
		d.scalar(path, in, out)
	}
}

func (d *decoder) object(path string, in any, out reflect.Value) {
	m, ok := in.(map[string]any)
	if !ok {
		d.addf(path, "expected keys and values, found %s", describe(in))
		return
	}
	known := map[string]int{}
	for i := range out.NumField() {
		known[out.Type().Field(i).Tag.Get("json")] = i
	}
	for _, key := range sortedKeys(m) {
		at := strings.TrimPrefix(path+"."+key, ".")
		i, ok := known[key]
		if !ok {
			d.addf(at, "unknown key; known are %s", strings.Join(sortedKeys(known), ", "))
			continue
		}
		d.value(at, m[key], out.Field(i))
	}
}

func (d *decoder) list(path string, in any, out reflect.Value) {
	l, ok := in.([]any)
	if !ok {
		d.addf(path, "expected a list, found %s", describe(in))
		return
	}
	s := reflect.MakeSlice(out.Type(), len(l), len(l)) // not nil when empty: an empty list is a wish
	for i, e := range l {
		at := fmt.Sprintf("%s[%d]", path, i)
		if e == nil {
			d.addf(at, "is empty")
			continue
		}
		d.value(at, e, s.Index(i))
	}
	out.Set(s)
}

// words fills a map of strings.
func (d *decoder) words(path string, in any, out reflect.Value) {
	m, ok := in.(map[string]any)
	if !ok {
		d.addf(path, "expected keys and values, found %s", describe(in))
		return
	}
	words := map[string]string{}
	for _, key := range sortedKeys(m) {
		var s string
		d.value(path+"."+key, m[key], reflect.ValueOf(&s).Elem())
		words[key] = s
	}
	out.Set(reflect.ValueOf(words))
}

func (d *decoder) scalar(path string, in any, out reflect.Value) {
	switch out.Kind() {
	case reflect.String:
		if s, ok := in.(string); ok {
			out.SetString(s)
			return
		}
		d.addf(path, "expected text, found %s; put it in quotes", describe(in))
	case reflect.Bool:
		if b, ok := in.(bool); ok {
			out.SetBool(b)
			return
		}
		d.addf(path, "expected true or false, found %s", describe(in))
	default:
		d.number(path, in, out)
	}
}

func (d *decoder) number(path string, in any, out reflect.Value) {
	n, ok := in.(json.Number)
	if !ok {
		d.addf(path, "expected a number, found %s", describe(in))
		return
	}
	i, err := strconv.ParseInt(n.String(), 10, 64)
	switch {
	case err != nil:
	case out.CanInt() && !out.OverflowInt(i):
		out.SetInt(i)
		return
	case out.CanUint() && i >= 0 && !out.OverflowUint(uint64(i)):
		out.SetUint(uint64(i))
		return
	}
	d.addf(path, "%s is not a whole number that fits here", n)
}

func describe(v any) string {
	switch v := v.(type) {
	case string:
		return strconv.Quote(v)
	case []any:
		return "a list"
	case map[string]any:
		return "keys and values"
	default:
		return fmt.Sprint(v)
	}
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
