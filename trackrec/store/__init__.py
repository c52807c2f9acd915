"""What a server looks up per user: the text and its vector, the ratings that the net reads, and new events."""
