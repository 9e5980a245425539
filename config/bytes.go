package config

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"
)

// ParseBytes reads a number of bytes: "512MiB" is 512 * 2^20, "10GB" is 10 * 10^9, a bare number is bytes. More than
// 2^63-1 or less than 0 is an error.
func ParseBytes(s string) (int64, error) {
	n, err := parseBytes(s)
	if err != nil {
		return 0, fmt.Errorf("%q is not a size: %w; write it like 512MiB (2^20) or 10GB (10^9)", cut(s), err)
	}
	return n, nil
}

func parseBytes(s string) (int64, error) {
	if s == "" {
		return 0, errors.New("it is empty")
	}
	if strings.Trim(s, "0123456789") == "" {
		n, err := strconv.ParseInt(s, 10, 64) // exact, where a float would round
		if err != nil {
			return 0, errors.New("it is larger than 8 EiB")
		}
		return n, nil
	}
	if s[0] < '0' || s[0] > '9' || strings.Contains(s, ",") {
		return 0, errors.New("it must begin with a number without commas")
	}
	n, err := humanize.ParseBytes(s)
	if err != nil {
		return 0, errors.New("the number or its unit cannot be read")
	}
	if n > math.MaxInt64 {
		return 0, errors.New("it is larger than 8 EiB")
	}
	return int64(n), nil
}

// FormatBytes writes a number of bytes exactly, with the largest binary unit that divides it: ParseBytes gives the same.
func FormatBytes(n int64) string {
	for _, u := range []struct {
		name  string
		shift uint
	}{{"TiB", 40}, {"GiB", 30}, {"MiB", 20}, {"KiB", 10}} {
		size := int64(1) << u.shift
		// Beyond 2^53 units a float no longer holds every number, and units are parsed through one.
		if n >= size && n%size == 0 && n < 1<<53 {
			return strconv.FormatInt(n/size, 10) + u.name
		}
	}
	return strconv.FormatInt(n, 10)
}
