module github.com/shopset/shopset/containertester

go 1.26.8
