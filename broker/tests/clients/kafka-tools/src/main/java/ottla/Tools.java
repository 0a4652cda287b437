package ottla;

import java.io.BufferedReader;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.lang.reflect.InvocationTargetException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import org.apache.kafka.common.utils.Exit;

/**
 * Runs Kafka's command-line tools one after the other in one JVM, since each JVM of its own costs most of a second.
 *
 * <p>A request on standard input: the main class, then the arguments, then the lines for the tool's standard input, the
 * last two each as a count on a line and that many lines. The response on standard output: the exit code, then what the
 * tool printed to standard output, then to standard error, in the same way.
 */
public final class Tools {
  /** What a tool's exit becomes, since it must not end this program. */
  private static final class Exited extends RuntimeException {
    private static final long serialVersionUID = 1;

    Exited() {
      super("exit", null, false, false);
    }
  }

  /** Of the tool that runs; null while it has not called for an exit. The first call counts: some tools catch {@link Exited}. */
  private static Integer code;

  /** What the tool wants done at its end: the console producer sends what it still holds. */
  private static final List<Runnable> HOOKS = new ArrayList<>();

  public static void main(String[] arguments) throws Exception {
    Exit.setExitProcedure((code, message) -> exit(code));
    Exit.setHaltProcedure((code, message) -> exit(code));
    Exit.setShutdownHookAdder((name, hook) -> HOOKS.add(hook));
    BufferedReader requests = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    PrintStream responses = System.out;
    for (String main = requests.readLine(); main != null; main = requests.readLine()) {
      String[] tool = lines(requests).toArray(String[]::new);
      List<String> input = lines(requests);
      ByteArrayOutputStream out = new ByteArrayOutputStream();
      ByteArrayOutputStream err = new ByteArrayOutputStream();
      int code = run(main, tool, input, new PrintStream(out, true, "UTF-8"), new PrintStream(err, true, "UTF-8"));
      StringBuilder response = new StringBuilder().append(code).append('\n');
      append(response, out);
      append(response, err);
      responses.write(response.toString().getBytes(StandardCharsets.UTF_8));
      responses.flush();
    }
    Runtime.getRuntime().halt(0);
  }

  private static int run(String main, String[] arguments, List<String> input, PrintStream out, PrintStream err)
      throws ReflectiveOperationException {
    StringBuilder text = new StringBuilder();
    input.forEach(line -> text.append(line).append('\n'));
    InputStream in = new ByteArrayInputStream(text.toString().getBytes(StandardCharsets.UTF_8));
    PrintStream outBefore = System.out;
    PrintStream errBefore = System.err;
    System.setIn(in);
    System.setOut(out);
    System.setErr(err);
    code = null;
    try {
      Class.forName(main).getMethod("main", String[].class).invoke(null, (Object) arguments);
      return code == null ? 0 : code;
    } catch (InvocationTargetException thrown) {
      if (thrown.getCause() instanceof Exited) {
        return code;
      }
      thrown.getCause().printStackTrace(err);
      return 1;
    } finally {
      HOOKS.forEach(Runnable::run);
      HOOKS.clear();
      System.setOut(outBefore);
      System.setErr(errBefore);
    }
  }

  private static void exit(int wanted) {
    if (code == null) {
      code = wanted;
    }
    throw new Exited();
  }

  private static List<String> lines(BufferedReader reader) throws Exception {
    int count = Integer.parseInt(reader.readLine());
    List<String> lines = new ArrayList<>();
    for (int i = 0; i < count; i++) {
      lines.add(reader.readLine());
    }
    return lines;
  }

  private static void append(StringBuilder response, ByteArrayOutputStream printed) {
    List<String> lines = printed.toString(StandardCharsets.UTF_8).lines().toList();
    response.append(lines.size()).append('\n');
    lines.forEach(line -> response.append(line).append('\n'));
  }
}
