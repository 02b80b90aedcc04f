"""The page for people: the API's own views as HTML, and orders as forms. It understands, admits and shows.

Without scripts all of it can be read and every order given; with them it is kept up to date by one stream of events.
"""

from rollbackd.page.application import add_page

__all__ = ["add_page"]
