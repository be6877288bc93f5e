package cli

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/cmd/weft/cli/client"
)

// attr is a flag of create or update (or both) that sets a field of an object.
type attr[M proto.Message] struct {
	flag, usage string
	shape       shape
	on          verbs
	// field is what update changes; several are separated by commas.
	field    string
	required bool
	// kind: the value names an object; choices: the value is one of these. For completion only.
	kind    client.Kind
	choices []string
	// set changes the object; values has one element unless the flag may be repeated.
	set func(c call, m M, values []string) error
}

// shape is how often a flag may be given and whether it takes a value.
type shape int

const (
	single shape = iota
	repeated
	boolean
)

// verbs are the commands that an attr is a flag of.
type verbs int

const (
	onCreate verbs = 1 << iota
	onUpdate
	onBoth = onCreate | onUpdate
)

// rawFlags are the values of a command's attrs by flag, as given; what was not given is absent.
type rawFlags map[string]*rawFlag

// rawFlag is a flag whose values are kept as text until the command runs: some name objects that must be looked up.
type rawFlag struct {
	shape  shape
	values []string
}

// String is the value as pflag shows it, e.g. as a default.
func (f *rawFlag) String() string { return strings.Join(f.values, ",") }

// Type is what the help calls the value.
func (f *rawFlag) Type() string {
	if f.shape == boolean {
		return "bool"
	}
	return "string"
}

// Set takes one more value.
func (f *rawFlag) Set(v string) error {
	if f.shape == boolean {
		b, err := strconv.ParseBool(v)
		if err != nil {
			return fmt.Errorf("%q is neither true nor false", v)
		}
		v = strconv.FormatBool(b)
	}
	if f.shape != repeated {
		f.values = nil
	}
	f.values = append(f.values, v)
	return nil
}

// bindAttrs declares the flags of one verb.
func bindAttrs[M proto.Message](a *app, cmd *cobra.Command, attrs []attr[M], on verbs, flags rawFlags) {
	for _, at := range attrs {
		if at.on&on == 0 {
			continue
		}
		usage := at.usage
		if at.shape == repeated {
			usage += " (repeatable)"
		}
		raw := &rawFlag{shape: at.shape}
		flags[at.flag] = raw
		f := cmd.Flags().VarPF(raw, at.flag, "", usage)
		if at.shape == boolean {
			f.NoOptDefVal = "true"
		}
		switch {
		case at.kind != "":
			complete(cmd, at.flag, a.completeFlag(at.kind))
		case at.choices != nil:
			complete(cmd, at.flag, cobra.FixedCompletions(at.choices, cobra.ShellCompDirectiveNoFileComp))
		case at.shape != boolean:
			complete(cmd, at.flag, cobra.NoFileCompletions)
		}
	}
}

// apply sets what the flags say on the object and returns the fields that they set, for an update mask.
func apply[M proto.Message](c call, m M, attrs []attr[M], flags rawFlags) (mask []string, err error) {
	for _, at := range attrs {
		if raw := flags[at.flag]; raw != nil && len(raw.values) == 0 && at.required {
			return nil, usagef("--%s is needed: %s", at.flag, strings.ReplaceAll(at.usage, "`", ""))
		}
	}
	for _, at := range attrs {
		raw := flags[at.flag]
		if raw == nil || len(raw.values) == 0 {
			continue
		}
		if err := at.set(c, m, raw.values); err != nil {
			return nil, fmt.Errorf("--%s: %w", at.flag, err)
		}
		for field := range strings.SplitSeq(at.field, ",") {
			if slices.Contains(mask, field) {
				if at.shape == boolean {
					return nil, usagef("--%s contradicts another flag", at.flag)
				}
				continue
			}
			mask = append(mask, field)
		}
	}
	return mask, nil
}

// text, flag and number make the setters of fields that hold what the flag says.
func text[M any](set func(M, string)) func(call, M, []string) error {
	return func(_ call, m M, v []string) error { set(m, v[0]); return nil }
}

func flag[M any](set func(M, bool)) func(call, M, []string) error {
	return func(_ call, m M, v []string) error { set(m, v[0] == "true"); return nil }
}

func number[M any](set func(M, uint32)) func(call, M, []string) error {
	return func(_ call, m M, v []string) error {
		n, err := parseNumber(v[0])
		set(m, n)
		return err
	}
}

func parseNumber(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return 0, usagef("%q is not a number from 0 to 4294967295", s)
	}
	return uint32(n), nil
}

// reference makes the setter of a field that holds the id of an object.
func reference[M any](k client.Kind, set func(M, string)) func(call, M, []string) error {
	return func(c call, m M, v []string) error {
		id, err := c.id(k, v[0])
		if err != nil {
			return err
		}
		set(m, id)
		return nil
	}
}

// elements makes the setter of a list: one element per value, none for the single value "none".
func elements[M, E any](parse func(string) (E, error), set func(M, []E)) func(call, M, []string) error {
	return func(_ call, m M, v []string) error {
		if len(v) == 1 && (v[0] == none || v[0] == "") {
			set(m, nil)
			return nil
		}
		out := make([]E, len(v))
		for i, s := range v {
			var err error
			if out[i], err = parse(s); err != nil {
				return usageError{err}
			}
		}
		set(m, out)
		return nil
	}
}

// none is the value that empties a list or stands for an absent address.
const none = "none"

func orNone(s string) string {
	if s == none {
		return ""
	}
	return s
}

// split takes "a<sep>b" apart; what names the two halves in the error.
func split(s, sep, what string) (before, after string, err error) {
	before, after, ok := strings.Cut(s, sep)
	if !ok || before == "" || after == "" {
		return "", "", fmt.Errorf("%q is not of the form %s", s, what)
	}
	return before, after, nil
}
