module github.com/shopset/shopset

go 1.26.8
