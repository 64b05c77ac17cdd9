"""For those who teach with the course: plans, minutes, misconceptions, rubrics and slides, made from the chapters."""
