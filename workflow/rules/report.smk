# The differences that stand, and the page that shows them.
