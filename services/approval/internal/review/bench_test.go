package review_test

import (
	"strings"
	"testing"

	"github.com/rumi-ai/rumi/services/approval/internal/review"
)

// BenchmarkSearch is of one large file: a review must not be slower than a person's patience.
func BenchmarkSearch(b *testing.B) {
	for name, line := range map[string]string{
		"ASCII":     "def function(self, argument=1): return self.value + argument\n",
		"Japanese":  "# 天気予報を取得する。ＡＰＩの使用率\n",
		"invisible": strings.Repeat("\u200b", 20),
		"tags":      "🏴" + strings.Repeat("\U000e0061", 20),
		"words":     "\"\n'''аdmin_ｅｖａｌ {f'{x}'}\n",
	} {
		b.Run(name, func(b *testing.B) {
			text := strings.Repeat(line, 50<<20/len(line))
			m := &memory{}
			now := scan(b, m, map[string]string{"a.py": text})
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				if _, err := review.Of(review.Input{Now: now, Open: m.open}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
